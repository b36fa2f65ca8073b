"""The shipped profiles and cards: all there, all valid, and what they promise of themselves."""

from __future__ import annotations

import pytest

from deploytool.catalog import Catalog
from deploytool.engines import ENGINES
from deploytool.hardware import HardwareProfile
from deploytool.models import ModelCard

CATALOG = Catalog()
PROFILES = CATALOG.hardware_profiles()
CARDS = CATALOG.model_cards()

HARDWARE = [
    "cpu", "a10", "a10g", "t4", "l4", "l40s", "a100-40", "a100-80", "h100", "h200", "rtx3060-12gb", "rtx3090",
    "rtx4060ti-16gb", "rtx4070", "rtx4080", "rtx4090", "rtx5090", "jetson-orin", "consumer",
]  # fmt: skip
MODELS = [
    "qwen3-0.6b", "qwen3-4b", "qwen3-8b", "qwen3-reranker-0.6b", "qwen3-reranker-4b", "qwen3-reranker-8b",
    "nomic-v1.5", "all-minilm-l6-v2", "bge-m3", "bge-small-zh", "bge-large-zh", "jina-code-v2", "codebert",
    "starencoder", "laser", "voyage-code-2", "voyage-code-3", "openai-3-large",
]  # fmt: skip


def test_all_are_there_and_valid() -> None:
    assert sorted(profile.name for profile in PROFILES) == sorted(HARDWARE)
    assert sorted(card.name for card in CARDS) == sorted(MODELS)


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_usable_memory_follows_the_documented_rule(profile: HardwareProfile) -> None:
    if profile.memory_mib is None:
        assert profile.usable_mib is None
    else:
        assert profile.usable_mib == int(profile.memory_mib - 256 - 0.01 * profile.memory_mib)


def test_an_nvml_name_and_memory_belong_to_one_profile() -> None:
    seen: dict[str, list[HardwareProfile]] = {}
    for profile in PROFILES:
        for name in profile.match.nvml_names if profile.match else ():
            seen.setdefault(name, []).append(profile)
    assert [name for name, owners in seen.items() if len(owners) > 1] == []


def test_the_alias_names_the_consumer_cards() -> None:
    consumer = CATALOG.hardware("consumer")
    assert set(consumer.members) == {name for name in HARDWARE if name.startswith("rtx")}


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_a_card_judges_every_engine(card: ModelCard) -> None:
    assert set(card.engines) == set(ENGINES) - {"llama-cpp"}  # it is judged by the GGUF file that it is given
    assert card.sources


def test_no_card_that_needs_the_mean_is_right_on_an_engine_without_it() -> None:
    means = [card for card in CARDS if card.pooling == "mean"]
    assert len(means) == 3
    assert {card.engines["sglang"].verdict for card in means} == {"wrong-vectors"}


def test_dimensions_are_not_mixed_up_with_context() -> None:
    """The slips of common tutorials: dimension and context of these models told the wrong way round."""
    figures = {card.name: (card.dimensions, card.max_tokens) for card in CARDS}
    assert figures["qwen3-0.6b"] == (1024, 32768)
    assert figures["nomic-v1.5"] == (768, 8192)
    assert figures["all-minilm-l6-v2"] == (384, 256)


def test_prices_are_dated_and_have_a_source() -> None:
    priced = [profile.price for profile in PROFILES if profile.price is not None]
    assert priced
    assert all(price.source and price.as_of.year >= 2026 for price in priced)
