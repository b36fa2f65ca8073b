"""Calibration on purpose: bring a model up, fill its largest forward pass, take it down; keep what it took.

The load is short and chosen for memory, not for speed: texts of the longest length, as many in flight as fill
a forward pass twice.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from deploytool.benchmark import LoadOptions, run_load
from deploytool.calibrations.learning import IN_FLIGHT, Learned, forward_tokens, from_load, from_start
from deploytool.deployment import UpOptions, down, up
from deploytool.errors import Incompatible, NotAvailable
from deploytool.memory.measured import Measured
from deploytool.records import Deployment, RunRecord
from deploytool.targets import resolve

if TYPE_CHECKING:
    from deploytool.benchmark import Progress
    from deploytool.plans import Prepared
    from deploytool.store import Store

MOST_BATCH = 64  # texts of one request: more are sent by several at once
MARGIN_TOKENS = 8  # below the longest text: a fitted text may come out some tokens longer
Say = Callable[[str], None]


class Calibrated(NamedTuple):
    """What was measured, and the run that it was measured in."""

    entry: Measured
    run: RunRecord


def calibrate(
    prepared: Prepared,
    store: Store,
    progress: Say,
    view: Callable[[LoadOptions], Progress],
    *,
    duration_s: float,
    wait_s: float | None = None,
) -> Calibrated:
    """Measure one plan on its cards. Nothing is left running, whatever happens.

    Raises Incompatible where it uses no card or is no embedder, NotAvailable where NVML told nothing usable,
    and what `up` and `run_load` raise.
    """
    if not prepared.plan.launch.devices:
        raise Incompatible(
            f"the profile {prepared.hardware.name} has no card: only memory of cards is calibrated",
            hint="--profile of a card; `deploytool profiles detect` says which is here",
        )
    if prepared.card.kind == "reranker":
        raise Incompatible(
            f"{prepared.card.name} is a reranker: the load is made of embeddings",
            hint="its start is measured by every `deploytool up`",
        )
    name = f"calibrate-{uuid.uuid4().hex[:8]}"
    deployment = up(prepared, UpOptions(name=name, smoke=False, wait_s=wait_s), store, progress)
    try:
        _expect(from_start(deployment))
        options = _load(deployment, duration_s)
        run = run_load(resolve(name, store), options, store, view(options))
        learned = from_load(deployment, run)
        return Calibrated(_expect(learned), run)
    finally:
        down([name], store, progress)


def _expect(learned: Learned) -> Measured:
    if learned.entry is None:
        raise NotAvailable(
            f"nothing was measured: {learned.reason}",
            hint="`deploytool doctor --profile P` says what NVML tells of the card",
        )
    return learned.entry


def _load(deployment: Deployment, duration_s: float) -> LoadOptions:
    """Enough texts of the longest length in flight to fill two forward passes."""
    longest = deployment.max_length or 256
    tokens = forward_tokens(deployment) or longest
    texts = max(math.ceil(IN_FLIGHT * tokens / longest), 2)
    batch = min(texts, MOST_BATCH)
    return LoadOptions(
        batch=(batch,),
        concurrency=(max(math.ceil(texts / batch), 2),),
        duration_s=duration_s,
        warmup_s=min(duration_s, 2.0),
        timeout_s=600.0,
        calibration=False,
        checks=0,
        text_tokens=f"fixed:{max(longest - MARGIN_TOKENS, 8)}",
    )
