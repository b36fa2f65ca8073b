"""Parameter counts from architectures, and the rules between a card's fields."""

from __future__ import annotations

from typing import Any

import pytest

from deploytool.catalog import Catalog
from deploytool.model_rules import model_faults
from deploytool.models import Architecture, Matryoshka, ModelCard, computed_parameters, parameter_count

CARDS = {card.name: card for card in Catalog().model_cards()}

# The published counts, from the sources that each card names; the rest are rounded or not published.
EXACT = {
    "qwen3-0.6b": 595_776_512,
    "qwen3-4b": 4_021_774_336,
    "qwen3-8b": 7_567_295_488,
    "qwen3-reranker-0.6b": 595_776_512,
    "qwen3-reranker-4b": 4_021_784_576,
    "qwen3-reranker-8b": 8_188_548_096,
    "nomic-v1.5": 136_731_648,
    "all-minilm-l6-v2": 22_713_216,
    "bge-m3": 567_754_752,
    "bge-small-zh": 23_953_920,
    "bge-large-zh": 325_522_432,
    "codebert": 124_645_632,
}
NOT_EXACT = {"jina-code-v2", "starencoder", "laser", "voyage-code-2", "voyage-code-3", "openai-3-large"}


def test_every_card_is_either_exact_or_known_not_to_be() -> None:
    assert set(CARDS) == set(EXACT) | NOT_EXACT


@pytest.mark.parametrize("name", EXACT)
def test_the_architecture_adds_up_to_the_published_count(name: str) -> None:
    assert computed_parameters(CARDS[name]) == CARDS[name].parameters == EXACT[name]


def test_rounded_counts_are_near() -> None:
    computed = computed_parameters(CARDS["starencoder"])
    assert computed == 124_186_368
    assert CARDS["starencoder"].parameters == 125_000_000
    assert computed_parameters(CARDS["jina-code-v2"]) is None  # its own code is not a plain BERT


def test_counts_of_further_decoders() -> None:
    """Published: Qwen2-0.5B 494,032,768; Mistral-7B without its head 7,110,660,096 (e5-mistral-7b)."""
    qwen2 = Architecture(
        class_name="Qwen2ForCausalLM", model_type="qwen2", hidden=896, intermediate=4864, layers=24,
        heads=14, kv_heads=2, head_dim=64, vocab=151936,
    )  # fmt: skip
    mistral = Architecture(
        class_name="MistralModel", model_type="mistral", hidden=4096, intermediate=14336, layers=32,
        heads=32, kv_heads=8, head_dim=128, vocab=32000, tied_embeddings=False,
    )  # fmt: skip
    assert parameter_count(qwen2) == 494_032_768
    assert parameter_count(mistral) == 7_110_660_096
    assert parameter_count(mistral, head=True) == 7_110_660_096 + 32000 * 4096
    assert parameter_count(mistral.model_copy(update={"model_type": "mamba"})) is None


@pytest.mark.parametrize(
    ("name", "kv_bytes"), [("qwen3-0.6b", 114_688), ("qwen3-4b", 147_456), ("qwen3-8b", 147_456)]
)
def test_bytes_of_a_cached_token(name: str, kv_bytes: int) -> None:
    architecture = CARDS[name].architecture
    assert architecture is not None
    assert architecture.kv_bytes_per_token() == kv_bytes


def test_matryoshka_sizes() -> None:
    listed, ranged = Matryoshka(sizes=(64, 128)), Matryoshka(minimum=32, maximum=1024)
    assert [listed.allows(size) for size in (64, 100, 128)] == [True, False, True]
    assert [ranged.allows(size) for size in (31, 32, 100, 1024, 1025)] == [False, True, True, True, False]


CARD: dict[str, Any] = {
    "name": "x", "title": "X", "kind": "embedding", "hub_id": "a/b", "licence": "mit", "dimensions": 384,
    "parameters": 22_713_216, "max_tokens": 512,
    "architecture": {
        "class_name": "BertModel", "model_type": "bert", "hidden": 384, "intermediate": 1536, "layers": 6,
        "heads": 12, "kv_heads": 12, "head_dim": 32, "vocab": 30522, "max_positions": 512,
    },
    "engines": {"sglang": {"verdict": "ok"}},
}  # fmt: skip


def faults(**changes: Any) -> list[str]:
    fields = {name: value for name, value in (CARD | changes).items() if value is not None}
    return [".".join(map(str, fault.field)) for fault in model_faults(ModelCard(**fields))]


API = {"provider": "openai", "base_url": "https://example.com/v1", "key_env": "KEY"}


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({}, []),
        ({"dimensions": None}, ["dimensions"]),
        ({"hub_id": None}, ["hub_id"]),
        ({"hub_id": None, "folder": "/models/x"}, []),
        ({"hub_id": None, "engines": {"sglang": {"verdict": "unsupported", "reason": "r"}}}, []),
        ({"hub_id": None, "folder": "/x", "revision": "abc"}, ["revision"]),
        ({"kind": "api"}, ["api"]),
        ({"api": API}, ["api"]),
        ({"parameters": 23_100_000}, []),  # rounded
        ({"parameters": 33_400_000}, ["parameters"]),
        ({"max_tokens": 513}, ["max_tokens"]),
        ({"trained_tokens": 1024}, ["trained_tokens"]),
        (
            {"architecture": CARD["architecture"] | {"kv_heads": 5}, "parameters": None},
            ["architecture.kv_heads"],
        ),
        ({"matryoshka": {"sizes": [64, 385]}}, ["matryoshka.sizes.1"]),
        ({"matryoshka": {"sizes": [64], "minimum": 3}}, ["matryoshka"]),
        ({"matryoshka": {}}, ["matryoshka"]),
        ({"matryoshka": {"minimum": 32}}, ["matryoshka"]),
        ({"matryoshka": {"minimum": 64, "maximum": 32}}, ["matryoshka"]),
        ({"matryoshka": {"minimum": 32, "maximum": 385}}, ["matryoshka.maximum"]),
        ({"matryoshka": {"sizes": [64, 2048]}, "kind": "api", "api": API}, []),
        ({"prompts": {"query": "Instruct: {task}\nQuery:"}}, ["prompts.task"]),
        ({"prompts": {"document": "passage: {text}"}}, ["prompts.document"]),
        ({"engines": {"sglang": {"verdict": "wrong-vectors"}}}, ["engines.sglang.reason"]),
        ({"sha256": {"model.safetensors": "ABC"}}, ["sha256.model.safetensors"]),
        ({"sha256": {"../m": "0" * 64}}, ["sha256.../m"]),
    ],
)
def test_rules_between_fields(changes: dict[str, Any], fields: list[str]) -> None:
    assert faults(**changes) == fields
