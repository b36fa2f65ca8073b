"""What fits where: models x cards, each planned as `plan` would on an idle card, without looking for files.

A cell says which engine, in which dtype, on how many cards, up to which length, and what stays free.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from deploytool.errors import DeploytoolError
from deploytool.hardware import Dtype, HardwareProfile, Scalar
from deploytool.memory import MIB, FitVerdict, kv_bytes_per_token
from deploytool.models import ModelCard
from deploytool.planning import AUTO, Plan, PlanRequest
from deploytool.plans import Known, any_pooling, planned
from deploytool.schema import Document
from deploytool.telemetry import host

MOST_TEXTS = 4096
MOST_CARDS = 8


class Fit(Document):
    """One model on one kind of card. None: it is not served there, or nothing says.

    `texts` of `max_length` tokens are computed at once at most: in one forward pass (SentenceTransformers), or
    held in the token pool if all that is free went to it (SGLang).
    """

    model: str
    profile: str
    verdict: FitVerdict | Literal["not_served"]
    reason: str = ""
    engine: str | None = None
    dtype: str | None = None
    tensor_parallel: int | None = None
    max_length: int | None = None
    texts: int | None = None
    expected_mib: float | None = None
    upper_mib: float | None = None
    available_mib: float | None = None
    left_free_mib: float | None = None
    replicas: int | None = None
    calibration: str = ""


def fits(
    models: Sequence[ModelCard],
    profiles: Sequence[HardwareProfile],
    known: Known,
    *,
    engine: str = AUTO,
    flags: Mapping[str, Scalar] | None = None,
    cards: int = MOST_CARDS,
) -> list[Fit]:
    """Every model on every profile, in that order. `cards`: the most that may share a model.

    Hosted APIs and profiles that stand for others (`kind: alias`) are left out. BadInput for flags that no
    engine knows is an answer of each cell.
    """
    memory = host.memory().available_mib
    return [
        fit(card, hardware, known, engine=engine, flags=flags or {}, cards=cards, host_mib=memory)
        for card in models
        if card.kind != "api"
        for hardware in profiles
        if hardware.kind != "alias"
    ]


def fit(
    card: ModelCard,
    hardware: HardwareProfile,
    known: Known,
    *,
    engine: str,
    flags: Mapping[str, Scalar],
    cards: int,
    host_mib: float,
) -> Fit:
    """One cell. `host_mib`: what this machine has free, for its processors."""
    on_cpu = hardware.kind == "cpu"
    request = PlanRequest(
        engine=engine,
        flags={**any_pooling(card), **flags},
        gpus=None if on_cpu else cards,
        free_mib=host_mib if on_cpu else None,
        free_from="free memory of this machine",
    )
    try:
        plan, _ = planned(card, hardware, request, known)
    except DeploytoolError as error:
        reason = "; ".join([error.message, *error.details])
        return Fit(model=card.name, profile=hardware.name, verdict="not_served", reason=reason)
    memory, length = plan.memory, plan.value("max_length")
    return Fit(
        model=card.name,
        profile=hardware.name,
        verdict=memory.verdict,
        reason=memory.reason,
        engine=plan.engine,
        dtype=plan.dtype,
        tensor_parallel=plan.tensor_parallel,
        max_length=length if isinstance(length, int) else None,
        texts=_texts(plan, card, hardware, request, known),
        expected_mib=memory.expected_mib,
        upper_mib=memory.upper_mib,
        available_mib=memory.available_mib,
        left_free_mib=memory.left_free_mib,
        replicas=memory.replicas,
        calibration=memory.calibration,
    )


def _texts(
    plan: Plan, card: ModelCard, hardware: HardwareProfile, request: PlanRequest, known: Known
) -> int | None:
    """The most texts of the planned length that are computed at once; None where it does not fit at all."""
    memory, length = plan.memory, plan.value("max_length")
    if memory.verdict not in ("fits", "tight") or not isinstance(length, int) or card.architecture is None:
        return None
    if memory.pool_mib is not None:
        dtype: Dtype = "float32" if plan.dtype == "float32" else "bfloat16"  # float16 is as large
        each = kv_bytes_per_token(card.architecture, dtype, tensor_parallel=plan.tensor_parallel) / MIB
        room = memory.pool_mib + max((memory.available_mib or 0) - memory.upper_mib, 0)
        return int(room / each / length)
    largest = int(str(plan.value("batch")))
    for texts in _doubling(largest):
        bigger = request.model_copy(
            update={"engine": plan.engine, "flags": {**request.flags, "max_length": length, "batch": texts}}
        )
        try:
            verdict = planned(card, hardware, bigger, known)[0].memory.verdict
        except DeploytoolError:
            break
        if verdict != "fits":
            break
        largest = texts
    return largest


def _doubling(first: int) -> Iterator[int]:
    texts = max(first, 1) * 2
    while texts <= MOST_TEXTS:
        yield texts
        texts *= 2
