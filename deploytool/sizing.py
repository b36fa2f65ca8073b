"""Capacity as data and arithmetic: what probes found, and the plan that follows. No clock, no network."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic import Field

from deploytool.hardware import HardwareProfile, Price
from deploytool.schema import Document

Ruling = Literal["holds", "breaks", "undecided", "void"]
Limit = Literal["compute", "memory", "queue", "client"]

KEEPS_UP = 0.97  # of what was due was answered in time: below it the server can do no more
FULL_MEMORY = 0.97
BUSY_CARD_PERCENT = 90.0
REFUSALS = frozenset({"429", "503"})
MEMORY_SPARE = 1.10


class Probe(Document):
    """One rate that was tried, in open loop: requests due a second, of which each holds `batch` texts."""

    rate: float
    step: Literal["double", "bisect", "confirm"]
    ruling: Ruling
    why: str
    due: int = Field(description="requests due in the window: answered, failed and dropped")
    errors: dict[str, int] = Field(default_factory=dict)
    duration_s: float
    served_per_s: float
    p50_ms: float | None = None
    p99_ms: float | None = None
    tokens_per_s: float | None = None
    vram_peak_mib: float | None = None
    rss_peak_mib: float | None = None
    gpu_utilisation_percent: float | None = None
    client_cpu_percent: float | None = None


class Found(Document):
    """What a search found. `high` None: no rate was shown to break the SLO, so it is "at least"."""

    max_qps: float = Field(description="highest rate at which the SLO was shown to hold; 0: at none")
    low: float | None = Field(description="as max_qps, confirmed by a probe of its own; None: not")
    high: float | None = Field(description="lowest rate at which it was shown to break, or else not to hold")
    p99_ms: float | None
    converged: bool
    reason: str = Field(description="why the search ended")
    gone: bool = Field(default=False, description="the target died while it was measured")
    probes: tuple[Probe, ...]

    @property
    def best(self) -> Probe | None:
        """The longest probe at the rate that was found."""
        held = [probe for probe in self.probes if probe.rate == self.max_qps and probe.ruling == "holds"]
        return max(held, key=lambda probe: probe.due, default=None)


class Plan(Document):
    """Replicas for a target, or of one replica where there is none. `usd_*` None: `usd_reason` says why."""

    target_qps: float | None
    growth: float
    headroom: float = Field(description="share of a replica's rate that stays free in normal operation")
    needed_qps: float | None = Field(description="the target with its growth")
    per_replica_qps: float = Field(description="what is planned on a replica: its rate less the headroom")
    working: int | None = Field(description="replicas that carry the load")
    replicas: int | None = Field(description="with one more, so that the loss of one is borne")
    reason: str | None = Field(default=None, description="why there is no number of replicas")
    cards_per_replica: int | None
    cards: int | None
    card: str | None
    vram_mib_per_card: float | None = Field(description="highest seen, with a tenth to spare")
    card_memory_mib: int | None
    instances: int | None = None
    usd_per_hour: float | None = None
    usd_per_1m_texts: float | None = Field(
        default=None, description="of the plan at its target; without one, of a replica at its rate"
    )
    usd_per_1m_tokens: float | None = None
    usd_per_1m_texts_full: float | None = Field(default=None, description="of a replica at its full rate")
    usd_reason: str | None = None
    price: str | None = Field(default=None, description="the list price, its instance and its day")


class Capacity(Document):
    """The whole result of `capacity`: found, planned, and what it was measured on."""

    target: str
    model: str
    subject: str
    profile: str | None
    slo: tuple[str, ...]
    batch: int
    run: str | None = Field(default=None, description="the run that holds the probes' raw samples")
    measured_at: str
    took_s: float
    requests: int = Field(description="requests of all probes' windows")
    found: Found
    knee_qps: float | None
    limit: Limit | None
    limit_why: str
    plan: Plan
    notes: tuple[str, ...] = ()

    def document(self) -> dict[str, object]:
        """The JSON that `capacity --json` prints: the figures that one looks for first, then the rest."""
        found = self.found
        return {
            "max_qps": found.max_qps,
            "at_least": found.high is None and found.max_qps > 0,
            "ci95": [found.low, found.high],
            "p99_ms": found.p99_ms,
            "converged": found.converged,
            "reason": found.reason,
            "limit": self.limit,
            "limit_why": self.limit_why,
            "knee_qps": self.knee_qps,
            "replicas": self.plan.replicas,
            "usd_per_1m_texts": self.plan.usd_per_1m_texts,
            **self.model_dump(mode="json", exclude={"found", "knee_qps", "limit", "limit_why"}),
            "probes": [probe.model_dump(mode="json") for probe in found.probes],
        }


def knee(probes: Iterable[Probe]) -> float | None:
    """The rate with most throughput per latency: beyond it latency grows faster than throughput.

    Kleinrock's power, rate / mean latency (Power and deterministic rules of thumb, ICC 1979); P50 stands for
    the mean, which a few slow requests move.
    """
    power = [
        (probe.served_per_s / probe.p50_ms, probe.rate)
        for probe in probes
        if probe.p50_ms and probe.ruling != "void"
    ]
    return max(power)[1] if power else None


def limit_of(found: Found, card: HardwareProfile | None, cards: int | None) -> tuple[Limit | None, str]:
    """What keeps the rate from being higher, told from the lowest rate that broke the SLO."""
    void = next((probe for probe in found.probes if probe.ruling == "void"), None)
    broken = min(
        (probe for probe in found.probes if probe.ruling == "breaks"),
        key=lambda probe: (probe.rate, -probe.due),
        default=None,
    )
    if broken is None:
        if void is not None:
            return "client", f"at {void.rate:g}/s the measurement was at fault: {void.why}"
        return None, "no rate was shown to break the SLO"
    return _cause(broken, found.max_qps, (card.memory_mib or 0) * (cards or 1) if card is not None else 0)


def _cause(broken: Probe, max_qps: float, room_mib: int) -> tuple[Limit, str]:
    refused = sum(number for kind, number in broken.errors.items() if kind in REFUSALS)
    due_per_s = broken.due / broken.duration_s if broken.duration_s else 0.0
    used, busy = broken.vram_peak_mib or 0.0, broken.gpu_utilisation_percent or 0.0
    at = f"at {broken.rate:g}/s"
    # A server may fill its card at its start, so that a full card alone limits nothing.
    if room_mib and used >= FULL_MEMORY * room_mib and "5xx" in broken.errors:
        found: tuple[Limit, str] = (
            "memory",
            f"{at} {used:,.0f} of {room_mib:,} MiB were in use, and requests failed",
        )
    elif refused:
        found = "queue", f"{at} its bounded queue refused {refused:,} of {broken.due:,} requests"
    elif due_per_s and broken.served_per_s < KEEPS_UP * due_per_s:
        found = "compute", f"{due_per_s:.4g}/s were due and {broken.served_per_s:.4g}/s were answered in time"
    elif busy >= BUSY_CARD_PERCENT:
        found = "compute", f"{at} the card was busy {busy:.0f} % of the time"
    elif not max_qps:
        found = "compute", "a request takes longer than the SLO allows even when it is nearly alone"
    else:
        found = "queue", f"{at} the server keeps up, but requests wait too long for their turn"
    return found


def plan(
    max_qps: float,
    batch: int,
    *,
    target_qps: float | None,
    growth: float,
    headroom: float,
    tokens_per_s: float | None,
    vram_peak_mib: float | None,
    card: HardwareProfile | None,
    cards_per_replica: int | None,
) -> Plan:
    """The plan for `target_qps` requests/s of `batch` texts. `growth` and `headroom` 0.3 is 30 %."""
    per_replica = max_qps * (1 - headroom)
    needed = target_qps * (1 + growth) if target_qps is not None else None
    working = math.ceil(needed / per_replica - 1e-9) if needed is not None and per_replica > 0 else None
    replicas = working + 1 if working is not None else None
    reason = None
    if replicas is None:
        reason = "no --target-qps was given" if target_qps is None else "no rate holds the SLO"
    known_cards = cards_per_replica if card is not None and card.kind == "gpu" else None
    drawn = Plan(
        target_qps=target_qps,
        growth=growth,
        headroom=headroom,
        needed_qps=needed,
        per_replica_qps=per_replica,
        working=working,
        replicas=replicas,
        reason=reason,
        cards_per_replica=known_cards,
        cards=replicas * known_cards if replicas is not None and known_cards else None,
        card=card.title if card is not None else None,
        vram_mib_per_card=_per_card(vram_peak_mib, known_cards),
        card_memory_mib=card.memory_mib if card is not None else None,
    )
    return drawn.model_copy(update=_costs(drawn, max_qps, batch, tokens_per_s, card))


def _per_card(vram_peak_mib: float | None, cards: int | None) -> float | None:
    return vram_peak_mib / (cards or 1) * MEMORY_SPARE if vram_peak_mib is not None else None


def _costs(
    drawn: Plan, max_qps: float, batch: int, tokens_per_s: float | None, card: HardwareProfile | None
) -> dict[str, object]:
    price = card.price if card is not None else None
    if price is None:
        where = f"the profile {card.name} has no price" if card is not None else "the hardware is not known"
        return {"usd_reason": where}
    if max_qps <= 0:
        return {"usd_reason": "no rate holds the SLO"}
    cards = drawn.cards_per_replica or 1
    instances = instances_for(drawn.replicas if drawn.replicas is not None else 1, cards, price)
    usd = instances * price.usd_per_hour
    one_usd = cards / price.gpus * price.usd_per_hour
    full = per_million(one_usd, max_qps * batch)
    at_target = per_million(usd, drawn.target_qps * batch) if drawn.replicas and drawn.target_qps else full
    tokens_per_text = tokens_per_s / (max_qps * batch) if tokens_per_s else None
    return {
        "instances": instances,
        "usd_per_hour": usd,
        "usd_per_1m_texts": at_target,
        "usd_per_1m_tokens": at_target / tokens_per_text if tokens_per_text else None,
        "usd_per_1m_texts_full": full,
        "price": f"{price.usd_per_hour:g} USD an hour for {price.instance}, {price.as_of}",
    }


def instances_for(replicas: int, cards_per_replica: int, price: Price) -> int:
    """Whole instances that hold the replicas; a replica is not spread over two where it fits on one."""
    if cards_per_replica > price.gpus:
        return replicas * math.ceil(cards_per_replica / price.gpus)
    return math.ceil(replicas / (price.gpus // cards_per_replica))


def per_million(usd_per_hour: float, per_second: float) -> float:
    """USD for a million of what is done `per_second`."""
    return usd_per_hour / (per_second * 3600) * 1e6


def served_tokens(probes: Sequence[Probe], rate: float) -> float | None:
    """Tokens/s at a rate, where an answer there stated them."""
    return next((probe.tokens_per_s for probe in probes if probe.rate == rate and probe.tokens_per_s), None)
