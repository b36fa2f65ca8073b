"""What would fit, where a plan does not. Every offer was planned itself and fits; nothing is canned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from deploytool.catalog import Catalog
from deploytool.errors import DeploytoolError
from deploytool.hardware import HardwareProfile, Scalar
from deploytool.models import ModelCard
from deploytool.planning import Engine, Plan, PlanRequest

SHORTER = (16384, 8192, 4096, 2048, 1024, 512, 256)
CAPS = ("max_total_tokens", "max_batch_tokens")
CARDS = (2, 4, 8)
SLACK_TOKENS = 64


class Offer(NamedTuple):
    """One change to the request, and how it reads; of one kind the first that fits counts."""

    kind: str
    text: str
    card: ModelCard
    hardware: HardwareProfile
    engine: str
    flags: dict[str, Scalar]

    def change(self, kind: str, text: str, **flags: Scalar) -> Offer:
        """The same launch with other flags."""
        return self._replace(kind=kind, text=text, flags=self.flags | flags)


def what_fits(
    plan: Plan,
    card: ModelCard,
    hardware: HardwareProfile,
    request: PlanRequest,
    engines: Mapping[str, Engine],
    catalog: Catalog,
) -> list[str]:
    """At most one offer of each kind (length, batch, cap, dtype, cards, engine, model, profile)."""
    found: dict[str, str] = {}
    for offer in _offers(plan, card, hardware, request, engines, catalog):
        if offer.kind not in found and _fits(offer, hardware, request, engines):
            found[offer.kind] = offer.text
    return list(found.values())


def _fits(
    offer: Offer, hardware: HardwareProfile, request: PlanRequest, engines: Mapping[str, Engine]
) -> bool:
    engine = engines[offer.engine]
    changed: dict[str, object] = {"flags": offer.flags}
    if offer.kind == "model":
        changed |= {"model_path": None, "weights_bytes": None}
    if offer.kind in ("cards", "profile"):
        changed["gpus"] = None
    if offer.hardware is not hardware:
        changed["free_mib"] = None
    try:
        if engine.support(offer.card).verdict != "ok" or engine.refuses(offer.hardware) is not None:
            return False
        made = engine.plan(offer.card, offer.hardware, request.model_copy(update=changed))
    except DeploytoolError:
        return False
    return made.memory.verdict in ("fits", "tight")


def _offers(
    plan: Plan,
    card: ModelCard,
    hardware: HardwareProfile,
    request: PlanRequest,
    engines: Mapping[str, Engine],
    catalog: Catalog,
) -> Iterator[Offer]:
    now = Offer("", "", card, hardware, plan.engine, request.flags)
    yield from _fewer_tokens(now, plan, engines[plan.engine])
    for dtype in hardware.dtypes.allowed if hardware.dtypes else ():
        if dtype != plan.dtype:
            yield now.change("dtype", f"--dtype {dtype}", dtype=dtype)
    for cards in CARDS:
        if cards > plan.tensor_parallel:
            yield now.change("cards", f"--tp {cards} ({cards} cards)", tensor_parallel=cards)
    for other in engines:
        if other != now.engine:
            yield now._replace(kind="engine", text=f"--engine {other}", engine=other)
    for smaller in _smaller(card, catalog):
        yield now._replace(kind="model", text=f"the smaller model {smaller.name}", card=smaller)
    for larger in _larger(hardware, catalog):
        yield now._replace(kind="profile", text=f"--profile {larger.name}", hardware=larger)


def _fewer_tokens(now: Offer, plan: Plan, engine: Engine) -> Iterator[Offer]:
    """Shorter texts, smaller batches, and a cap on tokens: just enough for one text of the longest length."""
    longest, batch = plan.value("max_length"), plan.value("batch")
    if "batch" in now.flags and isinstance(batch, int):
        for smaller in (batch >> shift for shift in range(1, batch.bit_length())):
            yield now.change("batch", f"--batch {smaller}", batch=smaller)
    if not isinstance(longest, int):
        return
    if "max_length" in now.flags:
        for length in (length for length in SHORTER if length < longest):
            yield now.change("length", f"--seq-len {length}", max_length=length)
    tokens = -(-longest // SLACK_TOKENS) * SLACK_TOKENS + SLACK_TOKENS
    for cap in (setting.name for setting in engine.settings if setting.name in CAPS):
        yield now.change("cap", f"--set {cap}={tokens}", **{cap: tokens})


def _smaller(card: ModelCard, catalog: Catalog) -> list[ModelCard]:
    """Smaller models of the same family (architecture and kind), largest first."""
    if card.architecture is None:
        return []
    family = [
        other
        for other in catalog.model_cards()
        if other.architecture is not None
        and other.kind == card.kind
        and other.architecture.model_type == card.architecture.model_type
        and other.pooling == card.pooling
        and (other.parameters or 0) < (card.parameters or 0)
    ]
    return sorted(family, key=lambda other: -(other.parameters or 0))


def _larger(hardware: HardwareProfile, catalog: Catalog) -> list[HardwareProfile]:
    """Cards with more memory, smallest first."""
    cards = [
        other
        for other in catalog.hardware_profiles()
        if other.kind == "gpu" and (other.memory_mib or 0) > (hardware.memory_mib or 0)
    ]
    return sorted(cards, key=lambda other: other.memory_mib or 0)
