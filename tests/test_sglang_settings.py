"""SGLang's settings beside memory: copies, quantisation, rerankers, attention, versions. Plans are pure."""

from __future__ import annotations

from typing import Any

import pytest

from deploytool.catalog import Catalog
from deploytool.engines import ENGINES
from deploytool.engines.sglang_versions import KNOWN, VERSIONS, knowledge
from deploytool.errors import BadInput, Incompatible
from deploytool.hardware import Scalar
from deploytool.models import ModelCard
from deploytool.paths import packaged
from deploytool.planning import Plan, PlanRequest

CATALOG = Catalog()
SGLANG = ENGINES["sglang"]


def plan(
    model: str | ModelCard,
    profile: str,
    *,
    gpus: int | None = None,
    weights_bytes: int | None = None,
    version: str | None = None,
    **flags: Scalar,
) -> Plan:
    card = CATALOG.model(model) if isinstance(model, str) else model
    request = PlanRequest(flags=flags, gpus=gpus, weights_bytes=weights_bytes, engine_version=version)
    return SGLANG.plan(card, CATALOG.hardware(profile), request)


def flag(made: Plan, name: str) -> str:
    return made.launch.argv[made.launch.argv.index(name) + 1]


def quantised(method: str) -> ModelCard:
    return CATALOG.model("qwen3-8b").model_copy(update={"quantization": method, "parameters": None})


# Copies on several cards


def test_copies_take_cards_of_their_own() -> None:
    one = plan("qwen3-4b", "a10g")
    assert one.cards == 1 and "--data-parallel-size" not in one.launch.argv
    two = plan("qwen3-4b", "a10g", data_parallel=2)
    assert flag(two, "--data-parallel-size") == "2"
    assert (two.cards, two.launch.devices) == (2, (0, 1))
    assert two.memory.expected_mib == one.memory.expected_mib  # on each card


def test_auto_puts_a_copy_on_the_cards_left_over() -> None:
    shared = plan("qwen3-8b", "rtx3060-12gb", gpus=4, data_parallel="auto")
    assert (shared.tensor_parallel, shared.value("data_parallel"), shared.cards) == (2, 2, 4)
    assert plan("qwen3-4b", "a10g", gpus=4, data_parallel="auto").cards == 4
    assert plan("qwen3-4b", "a10g", data_parallel="auto").cards == 1
    assert plan("qwen3-0.6b", "cpu", data_parallel="auto").cards == 1


def test_idle_cards_are_said_and_not_taken() -> None:
    made = plan("qwen3-4b", "a10g", gpus=4)
    assert made.cards == 1
    assert any("4 cards are here, 1 will be used: --set data_parallel=4" in line for line in made.warnings)
    assert not any("cards are here" in line for line in plan("qwen3-4b", "a10g", gpus=1).warnings)


def test_more_copies_than_cards_are_refused() -> None:
    with pytest.raises(BadInput, match="needs 6 cards, there are 4"):
        plan("qwen3-8b", "rtx3060-12gb", gpus=4, data_parallel=3, tensor_parallel=2)
    with pytest.raises(BadInput, match="has no cards"):
        plan("qwen3-0.6b", "cpu", data_parallel=2)


def test_a_small_model_fits_several_times_on_one_card() -> None:
    memory = plan("qwen3-0.6b", "a10g").memory
    assert memory.replicas == int(22541 // memory.upper_mib) == 4


# Quantisation


def test_fp8_halves_the_layers_and_not_the_tables() -> None:
    plain, made = plan("qwen3-8b", "l4"), plan("qwen3-8b", "l4", quantization="fp8")
    assert flag(made, "--quantization") == "fp8"
    arch = CATALOG.model("qwen3-8b").architecture
    assert arch is not None
    layers = arch.layers * (4096 * 128 * 2 * (32 + 8) + 3 * 4096 * 12288)
    saved = plain.memory.weights_mib - made.memory.weights_mib
    assert saved == pytest.approx(layers / 2**20, abs=1)
    assert any("rounds the weights" in line for line in made.warnings)


def test_weights_that_are_quantised_on_the_card_must_fit_it_first() -> None:
    made = plan("qwen3-8b", "rtx4070", quantization="fp8")
    assert made.memory.weights_mib < 11_000
    assert made.memory.expected_mib > 14_000 and made.memory.verdict == "does_not_fit"


@pytest.mark.parametrize(
    ("profile", "method", "said"),
    [
        ("t4", "fp8", "needs compute capability 8.0"),
        ("cpu", "fp8", "needs an NVIDIA card"),
        ("a10g", "awq", "weights that were stored so"),
        ("a10g", "gptq_marlin", "weights that were stored so"),
    ],
)
def test_a_quantisation_that_cannot_be(profile: str, method: str, said: str) -> None:
    with pytest.raises(Incompatible, match=said) as caught:
        plan("qwen3-0.6b", profile, quantization=method)
    assert caught.value.hint


def test_an_encoder_is_not_quantised() -> None:
    with pytest.raises(Incompatible, match="no decoder"):
        plan("bge-m3", "a10g", quantization="fp8")


@pytest.mark.parametrize(
    ("stored", "profile", "method"),
    [
        ("awq", "a10g", "awq_marlin"),
        ("awq", "t4", "awq"),
        ("gptq", "h100", "gptq_marlin"),
        ("fp8", "l4", "fp8"),
    ],
)
def test_stored_weights_are_served_as_they_are_stored(stored: str, profile: str, method: str) -> None:
    made = plan(quantised(stored), profile, weights_bytes=6_100_000_000)
    assert flag(made, "--quantization") == method
    assert made.memory.weights_mib == pytest.approx(6_100_000_000 / 2**20, abs=1)
    assert not any("rounds the weights" in line for line in made.warnings)
    counted = plan(quantised(stored), profile).memory.weights_mib  # no files here: by arithmetic
    assert 5_000 < counted < 9_500


def test_stored_weights_are_not_read_as_others() -> None:
    with pytest.raises(Incompatible, match="stored as awq"):
        plan(quantised("awq"), "a10g", quantization="gptq_marlin")
    with pytest.raises(Incompatible, match="not known to run"):
        plan(quantised("mxfp9"), "a10g")
    with pytest.raises(Incompatible, match="computes in float16, not in bfloat16"):
        plan(quantised("awq"), "a10g", quantization="awq")


# Rerankers


def test_a_reranker_is_served_with_its_prompt_and_without_embeddings() -> None:
    made = plan("qwen3-reranker-0.6b", "a10g")
    template = packaged("profiles") / "templates" / "qwen3-reranker.jinja"
    assert "--is-embedding" not in made.launch.argv
    assert flag(made, "--chat-template") == str(template) and template.is_file()
    assert made.launch.files == (str(template),)
    assert flag(made, "--cuda-graph-backend-decode") == "disabled"
    own = plan("qwen3-reranker-0.6b", "a10g", chat_template="/mine.jinja")
    assert flag(own, "--chat-template") == "/mine.jinja" and own.launch.files == ("/mine.jinja",)


def test_a_template_is_no_setting_of_an_embedder() -> None:
    with pytest.raises(Incompatible, match="no reranker"):
        plan("qwen3-0.6b", "a10g", chat_template="/mine.jinja")


def test_the_prompt_is_what_sglang_knows_a_reranker_by() -> None:
    text = (packaged("profiles") / "templates" / "qwen3-reranker.jinja").read_text(encoding="utf-8")
    assert 'answer can only be "yes" or "no"' in text
    rendered = (
        pytest.importorskip("jinja2")
        .Template(text.strip("\n"))
        .render(messages=[{"content": "Q {{ 1 }}"}, {"content": "D"}], instruct="Judge")
    )
    assert rendered.startswith("<|im_start|>system\nJudge whether")
    assert "<Instruct>: Judge\n<Query>: Q {{ 1 }}\n<Document>: D<|im_end|>" in rendered
    assert rendered.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


# Attention kernels


@pytest.mark.parametrize(
    ("dtype", "head_dim", "backend"),
    [("bfloat16", 128, None), ("float32", 128, "triton"), ("bfloat16", 32, "triton"), ("float16", 64, None)],
)
def test_kernels_by_dtype_and_heads(dtype: str, head_dim: int, backend: str | None) -> None:
    card = CATALOG.model("qwen3-0.6b")
    assert card.architecture is not None
    changed: dict[str, Any] = {"head_dim": head_dim}
    card = card.model_copy(update={"architecture": card.architecture.model_copy(update=changed)})
    made = plan(card, "a10g", dtype=dtype)
    assert made.value("attention_backend") == backend
    assert ("--attention-backend" in made.launch.argv) is (backend is not None)


# Versions


@pytest.mark.parametrize(
    ("installed", "known"),
    [(None, KNOWN[-1]), ("0.5.23", KNOWN[-1]), ("0.5.24", KNOWN[-1]), ("0.6.0.post1", KNOWN[-1]),
     ("0.5.1", KNOWN[0]), ("0.5.23+cu129", KNOWN[-1])],
)  # fmt: skip
def test_the_nearest_known_version_is_gone_by(installed: str | None, known: object) -> None:
    assert knowledge(installed) is known
    assert plan("qwen3-0.6b", "a10g", version=installed).launch.engine_version in VERSIONS
