"""What a check is, what it may look at, and how checks are run one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from deploytool.endpoint import Client, Embeddings, EndpointError, Response, Unreachable
from deploytool.golden import Found
from deploytool.models import ModelCard
from deploytool.probes.texts import MIXED
from deploytool.schema import Document

# Minimum cosine of one text's vectors computed twice; half precision rounds more than float32.
FLOAT32_GATE = 0.9999
HALF_GATE = 0.999


class Check(Document):
    """One check's result. `passed` is None where it was skipped; then `saw` says why."""

    name: str
    passed: bool | None
    saw: str
    expected: str = ""
    hint: str | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Outcome:
    """What a check function found: `passed` None is a skip, whose reason is `saw`."""

    passed: bool | None
    saw: str
    hint: str | None = None
    expected: str | None = None


def ok(saw: str) -> Outcome:
    return Outcome(True, saw)


def fail(saw: str, hint: str, expected: str | None = None) -> Outcome:
    return Outcome(False, saw, hint, expected)


def skip(reason: str) -> Outcome:
    return Outcome(None, reason)


@dataclass
class Bench:
    """What the checks share: the endpoint, what is known of it, and answers that several checks look at."""

    client: Client
    card: ModelCard | None
    ours: bool = False
    key_enforced: bool = False
    dtype: str | None = None
    golden: Found | None = None
    max_length: int | None = None  # tokens that the server was told to read of a text
    texts: Sequence[str] = MIXED
    listing: Response | None = None
    batch: Embeddings | None = None
    alone: dict[str, list[float]] = field(default_factory=dict)

    @property
    def gate(self) -> float:
        return FLOAT32_GATE if self.dtype == "float32" else HALF_GATE

    @property
    def gate_text(self) -> str:
        """The gate in words, with why it is this one."""
        why = f"for {self.dtype}" if self.dtype else "half precision's, as the server's dtype is not known"
        return f"cosine >= {self.gate} ({why})"

    def single(self, text: str) -> list[float]:
        """The text's vector from a request of its own; asked once."""
        if text not in self.alone:
            self.alone[text] = self.client.embed(text).vectors[0]
        return self.alone[text]

    def batched(self) -> Embeddings:
        """All of `texts` in one request; asked once."""
        if self.batch is None:
            self.batch = self.client.embed(list(self.texts))
        return self.batch

    def all_vectors(self) -> list[list[float]]:
        return [self.single(self.texts[0]), *self.batched().vectors]


@dataclass(frozen=True)
class Step:
    """A check in a suite. It is skipped unless every check in `needs` passed."""

    name: str
    run: Callable[[Bench], Outcome]
    expected: str
    needs: tuple[str, ...] = ()


def run_steps(
    bench: Bench, steps: Iterable[Step], watch: Callable[[Check], None] | None = None
) -> list[Check]:
    """Runs the steps in order; `watch` sees each check as it is done.

    A step is skipped where one that it needs did not pass; the reason names the check at the root of it. A
    server that stops answering fails the check that noticed, and the later ones are skipped.
    """
    done: list[Check] = []
    causes: dict[str, str] = {}  # check that did not pass -> the check that is to blame
    lost: str | None = None
    for step in steps:
        blamed = list(dict.fromkeys(causes[name] for name in step.needs if name in causes))
        started = time.perf_counter()
        if lost is not None:
            outcome = skip(f"not run: the server stopped answering in {lost}")
        elif blamed:
            outcome = skip(f"not run: {' and '.join(blamed)} did not pass")
        else:
            try:
                outcome = step.run(bench)
            except EndpointError as error:
                outcome = Outcome(False, error.message, error.hint)
                lost = step.name if isinstance(error, Unreachable) else None
        if outcome.passed is not True:
            causes[step.name] = blamed[0] if blamed else step.name
        done.append(_check(bench, step, outcome, time.perf_counter() - started))
        if watch is not None:
            watch(done[-1])
    return done


def _check(bench: Bench, step: Step, outcome: Outcome, seconds: float) -> Check:
    return Check(
        name=step.name,
        passed=outcome.passed,
        saw=bench.client.redact(outcome.saw),
        expected=outcome.expected or step.expected,
        hint=outcome.hint,
        seconds=round(seconds, 4),
    )
