"""The gate before production: smoke, the baseline's own load, and the comparison, in one.

Everything that a baseline's run was asked is asked again: the same texts, grid, duration and arrivals. What
fails ends the gate; what could not be measured is a failure, never a pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from deploytool.benchmark import LoadOptions, Progress, resume_options, run_load
from deploytool.compared import Comparison
from deploytool.comparison import compare, read_side
from deploytool.errors import CheckFailed
from deploytool.golden import find as golden_of
from deploytool.probes import Check
from deploytool.probes import smoke as smoke_suite
from deploytool.records import RunRecord
from deploytool.store import Store
from deploytool.targets import Resolved
from deploytool.thresholds import Threshold

FAIL_ON = "qps<-10%,p99>+20%,errors>+0.5%,vram>+5%"
SMOKE_TIMEOUT_S = 30.0
OPTIONAL = "vram"  # of the default conditions: ruled on only where the baseline has it


@dataclass
class Gate:
    """What the gate saw. `run` and `comparison` None: it ended before."""

    checks: list[Check] = field(default_factory=list)
    run: RunRecord | None = None
    comparison: Comparison | None = None

    @property
    def failed_checks(self) -> list[Check]:
        return [check for check in self.checks if check.passed is False]

    @property
    def passed(self) -> bool:
        return not self.failed_checks and self.comparison is not None and self.comparison.passed


def pass_through(
    target: Resolved,
    baseline: RunRecord,
    thresholds: Sequence[Threshold],
    store: Store,
    progress: Progress,
    *,
    between_percent: float,
    watch: Callable[[Check], None] | None = None,
) -> Gate:
    """Smoke, load as the baseline was loaded, compare. A failed smoke check ends it before the load.

    Raises what a load run raises, CheckFailed where the run could not be finished, and BadInput where the
    baseline's work cannot be done again (its corpus is another one now).
    """
    gate = Gate()
    with target.client(SMOKE_TIMEOUT_S) as client:
        gate.checks = smoke_suite(
            client,
            target.card,
            ours=target.ours,
            key_enforced=target.api_key is not None,
            dtype=target.dtype,
            golden=golden_of(target.card, None),
            max_length=target.max_length,
            watch=watch,
        )
    if gate.failed_checks:
        return gate
    gate.run = run_load(target, request_of(baseline), store, progress)
    if gate.run.state != "finished":
        if gate.run.state == "interrupted":
            raise KeyboardInterrupt
        raise CheckFailed(
            f"the load could not be finished: {gate.run.reason}",
            hint=f"deploytool runs show {gate.run.id} says what was measured",
        )
    before = read_side(store, [baseline.id])
    after = read_side(store, [gate.run.id])
    gate.comparison = compare(before, after, thresholds, between_percent=between_percent)
    return gate


def request_of(baseline: RunRecord) -> LoadOptions:
    """The baseline's own request, to be made again."""
    return resume_options(baseline, {})


def default_conditions(baseline: RunRecord) -> str:
    """The conditions of a gate that was given none: those that the baseline has figures for."""
    conditions = FAIL_ON.split(",")
    if all(cell.vram_peak_mib is None for cell in baseline.cells):
        conditions = [one for one in conditions if not one.startswith(OPTIONAL)]
    if all(cell.latency_ms.p99 is None for cell in baseline.cells):
        conditions = [one.replace("p99", "p50") for one in conditions]
    return ",".join(conditions)
