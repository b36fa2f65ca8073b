"""Matching cards to profiles, choosing an alias's member, and the rules between a profile's fields."""

from __future__ import annotations

from typing import Any

import pytest

from deploytool.catalog import Catalog
from deploytool.errors import NotAvailable
from deploytool.hardware import HardwareProfile, choose_member, hardware_faults, match_profiles

PROFILES = Catalog().hardware_profiles()
CONSUMER = next(profile for profile in PROFILES if profile.name == "consumer")


def matched(name: str, memory_mib: float | None) -> list[str]:
    return [profile.name for profile in match_profiles(name, memory_mib, PROFILES)]


@pytest.mark.parametrize(
    ("name", "memory_mib", "profile"),
    [
        ("NVIDIA A10", 23028, "a10"),
        ("NVIDIA A10G", 23028, "a10g"),
        ("NVIDIA A10", 22731, "a10"),  # drivers before R510 leave their own reserve out of the total
        ("Tesla T4", 15360, "t4"),
        ("Tesla T4", 15109, "t4"),
        ("NVIDIA L4", 23034, "l4"),
        ("NVIDIA L40S", 46068, "l40s"),
        ("NVIDIA A100-SXM4-40GB", 40960, "a100-40"),
        ("A100-SXM4-40GB", 40536, "a100-40"),  # an old driver: no "NVIDIA", less memory
        ("NVIDIA A100-PCIE-40GB", 40960, "a100-40"),
        ("NVIDIA A100-SXM4-80GB", 81920, "a100-80"),
        ("NVIDIA A100 80GB PCIe", 81920, "a100-80"),
        ("NVIDIA H100 80GB HBM3", 81559, "h100"),
        ("NVIDIA H100 PCIe", 81559, "h100"),
        ("NVIDIA H200", 143771, "h200"),
        ("NVIDIA GeForce RTX 3060", 12288, "rtx3060-12gb"),
        ("NVIDIA GeForce RTX 4060 Ti", 16380, "rtx4060ti-16gb"),
        ("GeForce RTX 3090", 24268, "rtx3090"),
        ("NVIDIA GeForce RTX 5090", 32607, "rtx5090"),
        ("Orin (nvgpu)", None, "jetson-orin"),
    ],
)
def test_a_card_is_known_by_name_and_memory(name: str, memory_mib: float | None, profile: str) -> None:
    assert matched(name, memory_mib) == [profile]


@pytest.mark.parametrize(
    ("name", "memory_mib"),
    [
        ("NVIDIA GeForce RTX 3060", 8192),  # shares its name with the 12 GB card
        ("NVIDIA GeForce RTX 4060 Ti", 8188),
        ("NVIDIA GeForce RTX 3060", None),  # an unknown memory tells nothing apart
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 16376),
        ("NVIDIA A100-SXM4-80GB", 9728),  # a MIG instance has the whole card's name
        ("NVIDIA A10-8Q", 8192),  # a vGPU
        ("NVIDIA H100 NVL", 95830),
        ("", None),
    ],
)
def test_a_card_like_a_known_one_is_not_taken_for_it(name: str, memory_mib: float | None) -> None:
    assert matched(name, memory_mib) == []


def test_an_alias_picks_the_card_that_is_present() -> None:
    cards = [("NVIDIA A10G", 23028.0), ("NVIDIA GeForce RTX 4070", 12282.0)]
    assert choose_member(CONSUMER, cards, PROFILES).name == "rtx4070"


def test_an_alias_prefers_more_cards_then_more_memory() -> None:
    small, large = ("NVIDIA GeForce RTX 4070", 12282.0), ("NVIDIA GeForce RTX 4090", 24564.0)
    assert choose_member(CONSUMER, [small, large], PROFILES).name == "rtx4090"
    assert choose_member(CONSUMER, [small, large, small], PROFILES).name == "rtx4070"


def test_an_alias_without_its_card_names_the_members() -> None:
    with pytest.raises(NotAvailable) as caught:
        choose_member(CONSUMER, [], PROFILES, reason="no NVIDIA driver was found")
    assert "no NVIDIA driver was found" in caught.value.message
    assert all(member in str(caught.value.hint) for member in CONSUMER.members)
    with pytest.raises(NotAvailable, match=r"found: NVIDIA GeForce RTX 3060 \(8192.0 MiB\)"):
        choose_member(CONSUMER, [("NVIDIA GeForce RTX 3060", 8192.0)], PROFILES)


CARD: dict[str, Any] = {
    "name": "x", "title": "X", "kind": "gpu", "sources": ["s"],
    "match": {"nvml_names": ["X"], "memory": {"min_mib": 90, "max_mib": 110}},
    "memory_mib": 100, "usable_mib": 95, "compute_capability": "8.0",
    "dtypes": {"allowed": ["bfloat16", "float32"], "preferred": "bfloat16"},
}  # fmt: skip


def faults(**changes: Any) -> list[str]:
    fields = {name: value for name, value in (CARD | changes).items() if value is not None}
    return [".".join(map(str, fault.field)) for fault in hardware_faults(HardwareProfile(**fields))]


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({}, []),
        ({"match": None}, ["match"]),
        ({"match": {"nvml_names": ["X"]}}, ["match.memory"]),
        ({"match": {"nvml_names": ["X"], "memory": {"min_mib": 101, "max_mib": 110}}}, ["match.memory"]),
        ({"match": {"nvml_names": ["X"], "memory": {"min_mib": 110, "max_mib": 90}}}, ["match.memory"]),
        ({"memory_mib": None}, ["memory_mib"]),
        ({"usable_mib": None}, ["usable_mib"]),
        ({"usable_mib": 101}, ["usable_mib"]),
        ({"compute_capability": None}, ["compute_capability"]),
        ({"compute_capability": "7.5"}, ["dtypes.allowed"]),
        ({"dtypes": None}, ["dtypes"]),
        ({"dtypes": {"allowed": ["float32"], "preferred": "float16"}}, ["dtypes.preferred"]),
        ({"members": ["a10"]}, ["members"]),
        (
            {"unified_memory": True, "memory_mib": None, "usable_mib": None, "match": {"nvml_names": ["X"]}},
            [],
        ),
        ({"kind": "cpu"}, ["match", "memory_mib", "usable_mib", "compute_capability"]),
        (
            {
                "kind": "alias",
                "match": None,
                "memory_mib": None,
                "usable_mib": None,
                "compute_capability": None,
            },
            ["members"],
        ),
    ],
)
def test_rules_between_fields(changes: dict[str, Any], fields: list[str]) -> None:
    assert faults(**changes) == fields
