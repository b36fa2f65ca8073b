"""Choices that all engines share: dtype by capability and model, cards by heads, the engine that is right."""

from __future__ import annotations

import pytest

from deploytool.catalog import Catalog
from deploytool.engines import ENGINES
from deploytool.errors import Incompatible
from deploytool.hardware import Dtype
from deploytool.models import Architecture, ModelCard
from deploytool.planning.choices import (
    check_dtype,
    check_engine,
    choose_dtype,
    choose_engine,
    tensor_parallel_choices,
    tensor_parallel_problem,
)
from deploytool.plans import order

CATALOG = Catalog()


def architecture(heads: int = 32, kv_heads: int = 8, model_type: str = "qwen3") -> Architecture:
    return Architecture(
        class_name="Qwen3ForCausalLM", model_type=model_type, hidden=4096, intermediate=12288, layers=36,
        heads=heads, kv_heads=kv_heads, head_dim=128, vocab=151665, swiglu=True,
    )  # fmt: skip


def gemma() -> ModelCard:
    return ModelCard(
        name="gemma",
        title="",
        kind="embedding",
        licence="x",
        architecture=architecture(model_type="gemma3_text"),
    )


@pytest.mark.parametrize(
    ("model", "profile", "dtype"),
    [("qwen3-4b", "a10g", "bfloat16"), ("qwen3-4b", "t4", "float16"), ("qwen3-4b", "cpu", "float32"),
     ("bge-m3", "rtx5090", "bfloat16"), ("all-minilm-l6-v2", "cpu", "float32")],
)  # fmt: skip
def test_dtype_by_compute_capability(model: str, profile: str, dtype: str) -> None:
    chosen, why = choose_dtype(CATALOG.model(model), CATALOG.hardware(profile))
    assert chosen == dtype and why


def test_a_model_that_overflows_in_float16() -> None:
    assert choose_dtype(gemma(), CATALOG.hardware("t4"))[0] == "float32"
    assert choose_dtype(gemma(), CATALOG.hardware("a10g"))[0] == "bfloat16"
    with pytest.raises(Incompatible, match="overflows"):
        check_dtype("float16", gemma(), CATALOG.hardware("a10g"))


@pytest.mark.parametrize(
    ("dtype", "profile", "message"),
    [("bfloat16", "t4", "needs compute capability 8.0"), ("float16", "cpu", "does not allow float16")],
)
def test_a_dtype_that_the_card_lacks(dtype: Dtype, profile: str, message: str) -> None:
    with pytest.raises(Incompatible, match=message) as caught:
        check_dtype(dtype, CATALOG.model("bge-m3"), CATALOG.hardware(profile))
    assert caught.value.exit_code == 4 and "--dtype" in str(caught.value.hint)


def test_a_doubtful_dtype_is_a_warning() -> None:
    assert "NaN" in check_dtype("float16", CATALOG.model("qwen3-0.6b"), CATALOG.hardware("t4"))[0]
    assert check_dtype("float16", CATALOG.model("bge-m3"), CATALOG.hardware("t4")) == []


@pytest.mark.parametrize(
    ("heads", "kv_heads", "cards", "fits"),
    [
        (32, 8, 8, True),
        (32, 8, 3, False),
        (16, 8, 16, True),
        (12, 12, 8, False),
        (32, 2, 4, True),
        (32, 8, 6, False),
        (48, 6, 4, False),
        (24, 3, 4, False),
    ],
)
def test_tensor_parallel_by_heads(heads: int, kv_heads: int, cards: int, fits: bool) -> None:
    assert (tensor_parallel_problem(architecture(heads, kv_heads), cards) is None) is fits


def test_tensor_parallel_choices() -> None:
    assert tensor_parallel_choices(architecture(), 8) == [1, 2, 4, 8]
    assert tensor_parallel_choices(architecture(12, 12), 8) == [1, 2, 4]
    assert tensor_parallel_choices(architecture(), 3) == [1, 2]


@pytest.mark.parametrize(
    ("model", "profile", "engine"),
    [("qwen3-4b", "a10g", "sglang"), ("qwen3-4b", "cpu", "sentence-transformers"),
     ("bge-m3", "t4", "sglang"), ("nomic-v1.5", "a10g", "sentence-transformers"),
     ("qwen3-0.6b", "jetson-orin", "sentence-transformers"), ("codebert", "h100", "sentence-transformers")],
)  # fmt: skip
def test_auto_takes_the_engine_that_is_right(model: str, profile: str, engine: str) -> None:
    hardware = CATALOG.hardware(profile)
    assert choose_engine(CATALOG.model(model), hardware, ENGINES, order(hardware))[0] == engine


def test_auto_says_why_it_did_not_take_the_usual_engine() -> None:
    hardware = CATALOG.hardware("a10g")
    _, notes = choose_engine(CATALOG.model("all-minilm-l6-v2"), hardware, ENGINES, order(hardware))
    assert len(notes) == 1 and "sglang would give wrong vectors" in notes[0]


def test_no_engine_at_all_names_every_reason() -> None:
    hardware = CATALOG.hardware("a10g")
    with pytest.raises(Incompatible) as caught:
        choose_engine(CATALOG.model("laser"), hardware, ENGINES, order(hardware))
    assert {line.split(":")[0] for line in caught.value.details} == set(ENGINES)


def test_an_engine_asked_for_is_checked() -> None:
    check_engine("sglang", CATALOG.model("qwen3-4b"), CATALOG.hardware("a10g"), ENGINES)
    with pytest.raises(Incompatible, match="wrong vectors") as caught:
        check_engine("sglang", CATALOG.model("all-minilm-l6-v2"), CATALOG.hardware("a10g"), ENGINES)
    assert caught.value.hint == "take --engine sentence-transformers"
    with pytest.raises(Incompatible, match="unified memory"):
        check_engine("sglang", CATALOG.model("qwen3-4b"), CATALOG.hardware("jetson-orin"), ENGINES)
    old = CATALOG.hardware("t4").model_copy(update={"compute_capability": "7.0"})
    with pytest.raises(Incompatible, match=r"needs compute capability 7\.5"):
        check_engine("sglang", CATALOG.model("qwen3-4b"), old, ENGINES)
