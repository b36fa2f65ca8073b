"""The memory formulas: figures worked out by hand or read off the engine, limits, and how they move."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploytool.memory import (
    TORCH_GPU_CONTEXT,
    Range,
    activations,
    attention_mask,
    judge,
    kv_bytes_per_token,
    replicas_on_one_card,
    request_table_mib,
    sglang_chunk_default,
    sglang_decode_batch_default,
    sglang_fraction,
    sglang_prefill_graphs,
    sglang_reserve_mib,
    torch_activations,
    torch_parts,
    weights_mib,
)
from deploytool.models import Architecture

QWEN_4B = Architecture(
    class_name="Qwen3ForCausalLM", model_type="qwen3", hidden=2560, intermediate=9728, layers=36, heads=32,
    kv_heads=8, head_dim=128, vocab=151665, swiglu=True,
)  # fmt: skip
MINILM = Architecture(
    class_name="BertModel", model_type="bert", hidden=384, intermediate=1536, layers=6, heads=12, kv_heads=12,
    head_dim=32, vocab=30522, max_positions=512,
)  # fmt: skip
BGE_M3 = Architecture(
    class_name="XLMRobertaModel", model_type="xlm-roberta", hidden=1024, intermediate=4096, layers=24, heads=16,
    kv_heads=16, head_dim=64, vocab=250002, max_positions=8194,
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
    measured = torch_activations(QWEN_4B, "bfloat16", tokens=1024)
    assert measured.expected == pytest.approx(1024 * 1.215 * 2 * (3 * 9728 + 2 * 2560) / 2**20)
    plain = activations(MINILM, "float32", tokens=1024)
    assert plain == torch_activations(MINILM, "float32", tokens=1024)
    assert plain.lower == pytest.approx(1024 * 0.97 * 4 * (2 * 1536 + 3 * 384) / 2**20)


def test_the_mask_grows_with_tokens_times_length() -> None:
    assert attention_mask(tokens=32 * 512, longest=512) == Range(0.0, 8.0, 24.0)


def test_the_request_table_is_bounded_by_the_pool() -> None:
    assert request_table_mib(16448, 8193) == pytest.approx(2049 * 8197 * 4 / 2**20)
    assert request_table_mib(512, 100) == pytest.approx(257 * 104 * 4 / 2**20)


def test_the_parts_of_torch_add_up_to_the_formula() -> None:
    weights = weights_mib(22713216, "float32")
    act, mask = torch_activations(MINILM, "float32", tokens=8192), attention_mask(tokens=8192, longest=256)
    rest, work = torch_parts(weights, act.plus(mask), TORCH_GPU_CONTEXT)
    peak = rest.plus(work)
    assert peak.expected == pytest.approx(
        weights + (act.expected + mask.expected) * 1.25 + TORCH_GPU_CONTEXT.expected
    )
    assert peak.lower == pytest.approx(weights + act.lower + mask.lower + TORCH_GPU_CONTEXT.lower)
    assert rest.expected == pytest.approx(weights + TORCH_GPU_CONTEXT.expected)


@pytest.mark.parametrize(
    ("arch", "weights", "tokens", "longest", "rest_mib", "peak_mib"),
    [
        (MINILM, 43.3, 64 * 256, 256, 772, 988),
        (MINILM, 43.3, 16 * 128, 128, 772, 792),
        (BGE_M3, 1082.9, 2 * 8192, 8192, 1808, 2392),
    ],
)
def test_the_estimate_is_within_a_tenth_of_what_nvml_saw_on_an_h100(
    arch: Architecture, weights: float, tokens: int, longest: int, rest_mib: float, peak_mib: float
) -> None:
    """NVML's figures of the server's process, bfloat16, torch 2.11 (`benchmarks/gpu_memory.py`)."""
    work = torch_activations(arch, "bfloat16", tokens=tokens).plus(
        attention_mask(tokens=tokens, longest=longest)
    )
    rest, busy = torch_parts(weights, work, TORCH_GPU_CONTEXT)
    assert rest.expected == pytest.approx(rest_mib, rel=0.1)
    assert rest.plus(busy).expected == pytest.approx(peak_mib, rel=0.1)
    assert rest.plus(busy).lower < peak_mib < rest.plus(busy).upper


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
        work = torch_activations(QWEN_4B, "bfloat16", tokens=tokens).plus(
            attention_mask(tokens=tokens, longest=longest)
        )
        rest, busy = torch_parts(weights_mib(4021774336, "bfloat16"), work, TORCH_GPU_CONTEXT)
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
