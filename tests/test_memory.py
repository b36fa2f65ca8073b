"""The memory formulas: figures worked out by hand or read off the engine, limits, and how they move."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploytool.catalog import Catalog
from deploytool.engines import ENGINES
from deploytool.hardware import Scalar
from deploytool.memory import (
    MIB,
    Range,
    activations,
    judge,
    kv_bytes_per_token,
    replicas_on_one_card,
    request_table_mib,
    sglang_chunk_default,
    sglang_decode_batch_default,
    sglang_fraction,
    sglang_prefill_graphs,
    sglang_reserve_mib,
    torch_memory,
    weights_mib,
)
from deploytool.models import Architecture
from deploytool.planning import PlanRequest

QWEN_4B = Architecture(
    class_name="Qwen3ForCausalLM", model_type="qwen3", hidden=2560, intermediate=9728, layers=36, heads=32,
    kv_heads=8, head_dim=128, vocab=151665, swiglu=True,
)  # fmt: skip
MINILM = Architecture(
    class_name="BertModel", model_type="bert", hidden=384, intermediate=1536, layers=6, heads=12, kv_heads=12,
    head_dim=32, vocab=30522, max_positions=512,
)  # fmt: skip


@pytest.mark.parametrize(
    ("total_mib", "with_graphs", "without"),
    # without graphs: what SGLang 0.5.23 itself resolved for these totals
    [(12288, 0.669, 0.697), (15360, 0.735, 0.757), (23028, 0.684, 0.701), (24564, 0.704, 0.72),
     (32607, 0.777, 0.789), (40960, 0.823, 0.833), (81920, 0.83, 0.836), (143771, 0.903, 0.907)],
)  # fmt: skip
def test_the_fraction_is_sglangs_own(total_mib: int, with_graphs: float, without: float) -> None:
    chunk = sglang_chunk_default(total_mib)
    assert sglang_fraction(total_mib, sglang_reserve_mib(total_mib, chunk)) == with_graphs
    assert sglang_fraction(total_mib, sglang_reserve_mib(total_mib, chunk, prefill_graphs=False)) == without


def test_the_reserve_of_an_a10_is_summed_term_by_term() -> None:
    assert sglang_reserve_mib(23028, 4096) == 512 + 1.5 * 4096 + 128 + 2 * 48 + 8 * 50
    assert sglang_reserve_mib(23028, 256) == 512 + 1.5 * 2048 + 128 + 2 * 48 + 8 * sglang_prefill_graphs(256)
    assert sglang_reserve_mib(23028, 4096, tensor_parallel=4) == 512 + 6144 + 4 * 128 + 2 * 160 + 400
    assert sglang_reserve_mib(65536, 2048) == 10 * 1024


def test_prefill_graphs_are_those_that_sglang_captures() -> None:
    assert [sglang_prefill_graphs(chunk) for chunk in (2048, 4096, 8192)] == [42, 50, 58]


def test_defaults_follow_the_card() -> None:
    assert [sglang_chunk_default(mib) for mib in (15360, 23028, 46068, 81559, 143771, 200000)] == [
        2048, 4096, 4096, 8192, 8192, 16384,
    ]  # fmt: skip
    assert [sglang_decode_batch_default(mib, 1) for mib in (15360, 23028, 46068, 81559)] == [8, 48, 32, 256]
    assert sglang_chunk_default(None) == 4096


def test_keys_and_values_of_a_token() -> None:
    assert kv_bytes_per_token(QWEN_4B, "bfloat16") == 147456
    assert kv_bytes_per_token(QWEN_4B, "bfloat16", tensor_parallel=4) == 147456 // 4
    # More cards than key-value heads: each keeps one.
    assert kv_bytes_per_token(QWEN_4B, "bfloat16", tensor_parallel=16) == 147456 // 8


def test_weights_are_split_over_cards() -> None:
    assert weights_mib(4021774336, "bfloat16") / 1024 == pytest.approx(7.49, abs=0.005)
    assert weights_mib(4021774336, "bfloat16", tensor_parallel=2) == weights_mib(4021774336, "bfloat16") / 2
    assert weights_mib(22713216, "float32") / 1024 == pytest.approx(0.085, abs=0.001)


def test_activations_of_a_gated_and_of_a_plain_mlp() -> None:
    gated = activations(QWEN_4B, "bfloat16", tokens=1024)
    assert gated.lower == pytest.approx(1024 * 1.35 * 2 * (3 * 9728 + 2 * 2560) / 2**20)
    assert gated.upper == pytest.approx(1024 * 1.70 * 2 * (3 * 9728 + 2 * 2560) / 2**20)
    plain = activations(MINILM, "float32", tokens=1024)
    assert plain.lower == pytest.approx(1024 * 0.97 * 4 * (2 * 1536 + 3 * 384) / 2**20)


def test_the_request_table_is_bounded_by_the_pool() -> None:
    assert request_table_mib(16448, 8193) == pytest.approx(2049 * 8197 * 4 / 2**20)
    assert request_table_mib(512, 100) == pytest.approx(257 * 104 * 4 / 2**20)


def test_the_mask_grows_with_tokens_times_length_and_one_text_has_none() -> None:
    def mib(tokens: int, longest: int) -> float:
        return torch_memory.forward(QWEN_4B, "bfloat16", tokens=tokens, longest=longest)

    plain = 2 * (3 * 9728 + 4 * 2560)
    assert mib(1, 1) == pytest.approx(plain / 2**20)
    assert mib(16384, 2048) == pytest.approx(16384 * (plain + 2048) / 2**20)
    assert mib(8192, 8192) == mib(8192, 4096)  # the longest of which two share a pass
    # With long texts attention and its two masks take more than the MLP.
    assert mib(65536, 32768) == pytest.approx(
        65536 * (2 * (3 * 2560 + 4 * 4096 + 2 * 1024) + 3 * 32768) / 2**20
    )


# Seen on an H100: MiB of the process at rest, then per (batch, length) what torch's allocator held at its peak
# more than before. The decoders kept keys and values then, which the server does no more.
SEEN: dict[str, tuple[float, dict[tuple[int, int], float]]] = {
    "all-minilm-l6-v2": (772, {(16, 128): 16.9, (32, 256): 68.1, (128, 128): 134.2, (64, 256): 136.2}),
    "bge-m3": (1808, {}),
    "qwen3-0.6b": (1878, {(16, 128): 276.3, (4, 2048): 1121.1, (128, 128): 2210.3, (32, 512): 2216.5,
                          (8, 2048): 2241.2, (2, 8192): 2532.3}),
    "qwen3-4b": (8446, {(16, 128): 442.4, (4, 2048): 1785.2, (128, 128): 3538.4, (32, 512): 3544.5,
                        (8, 2048): 3569.3, (2, 8192): 3668.4}),
}  # fmt: skip


@pytest.mark.parametrize("name", SEEN)
def test_the_formulas_give_what_was_measured_on_a_card(name: str) -> None:
    card = Catalog().model(name)
    arch, (held, peaks) = card.architecture, SEEN[name]
    assert arch is not None and card.parameters is not None
    weights = weights_mib(card.parameters, "bfloat16")
    rest, _ = torch_memory.parts(weights, 0.0, torch_memory.CONTEXT)
    assert rest.expected == pytest.approx(held, rel=0.03)
    for (batch, length), peak in peaks.items():
        tokens = batch * length
        work = torch_memory.forward(arch, "bfloat16", tokens=tokens, longest=length)
        kept = tokens * kv_bytes_per_token(arch, "bfloat16") / MIB if arch.swiglu else 0.0
        # Where attention is the peak, those of one layer are counted twice here.
        assert work + kept == pytest.approx(peak, rel=0.03), (batch, length)


@pytest.mark.parametrize(
    ("name", "batch", "length", "nvml"),
    [("all-minilm-l6-v2", 16, 128, 792), ("all-minilm-l6-v2", 32, 256, 860), ("all-minilm-l6-v2", 64, 256, 988),
     ("all-minilm-l6-v2", 128, 128, 976), ("bge-m3", 2, 8192, 2392)],
)  # fmt: skip
def test_what_nvml_showed_of_encoders_is_within_a_tenth(
    name: str, batch: int, length: int, nvml: float
) -> None:
    card, hardware = Catalog().model(name), Catalog().hardware("h100")
    flags: dict[str, Scalar] = {"batch": batch, "max_length": length}
    memory = ENGINES["sentence-transformers"].plan(card, hardware, PlanRequest(flags=flags)).memory
    assert memory.expected_mib == pytest.approx(nvml, rel=0.1)
    assert memory.lower_mib <= nvml <= memory.upper_mib


def test_replicas_on_one_card_go_by_the_upper_estimate() -> None:
    need = Range(1000, 2000, 3000)
    counts = [replicas_on_one_card(need, mib) for mib in (9000, 8999, 3000, 2999, 2000, 1999, None)]
    assert counts == [3, 2, 1, 1, 1, 0, None]


def test_judging() -> None:
    need = Range(1000, 2000, 3000)
    assert [judge(need, mib) for mib in (3000, 2999, 2000, 1999, None)] == [
        "fits", "tight", "tight", "does_not_fit", "unknown",
    ]  # fmt: skip


@given(tokens=st.integers(1, 200_000), more=st.integers(1, 200_000), longest=st.integers(1, 32768))
def test_more_tokens_never_take_less(tokens: int, more: int, longest: int) -> None:
    def peak(tokens: int, longest: int) -> Range:
        work = torch_memory.forward(QWEN_4B, "bfloat16", tokens=tokens, longest=longest)
        rest, busy = torch_memory.parts(weights_mib(4021774336, "bfloat16"), work, torch_memory.CONTEXT)
        return rest.plus(busy)

    small, large = peak(tokens, longest), peak(tokens + more, longest)
    assert small.lower <= small.expected <= small.upper
    assert all(few <= many for few, many in zip(small, large, strict=True))
    assert peak(tokens, longest + 1).expected >= small.expected


@given(
    total=st.floats(6000, 300_000),
    chunk=st.sampled_from([2048, 4096, 8192, 16384]),
    tp=st.sampled_from([1, 2, 4]),
)
def test_the_fraction_stays_one(total: float, chunk: int, tp: int) -> None:
    reserve = sglang_reserve_mib(total, chunk, tensor_parallel=tp)
    assert sglang_fraction(total, reserve) < 1
    assert reserve >= sglang_reserve_mib(total, chunk, tensor_parallel=tp, prefill_graphs=False)
