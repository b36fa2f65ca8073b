"""A ranking by weights, and how far it hangs on them. Arithmetic alone.

Swing weights: within each criterion the best of the systems scores 1 and the worst 0, and a weight is what
the step from the worst to the best is worth. Quality is scored on its own scale; latency, memory and cost on a
logarithmic one, where halving counts the same anywhere. (Edwards and Barron, SMARTS and SMARTER, Organizational
Behavior and Human Decision Processes 60, 1994.)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field

from deploytool.errors import BadInput, nearest
from deploytool.schema import Document

CRITERIA: Mapping[str, bool] = {"quality": False, "latency": True, "memory": True, "cost": True}  # lower wins
DRAWS = 10_000
SEED = 20250101
EXAMPLE = "quality=.5,latency=.2,memory=.2,cost=.1"
TIE = 1e-12


class Standing(Document):
    """One system's place. `scores`: by criterion, 0 to 1; `first_share`: of all weightings, it is first in."""

    name: str
    score: float
    scores: dict[str, float]
    first_share: float


class Ranking(Document):
    """Systems, best first. `holds`: from which to which weight of a criterion the first one stays first.

    The other weights keep their proportions in `holds`; `first_share` is over weightings drawn evenly.
    """

    weights: dict[str, float] = Field(description="as used: they add up to 1")
    standings: tuple[Standing, ...]
    holds: dict[str, tuple[float, float]]
    dropped: dict[str, str] = Field(default_factory=dict, description="criterion -> why it does not count")
    unranked: dict[str, str] = Field(default_factory=dict, description="system -> why it has no place")
    draws: int = DRAWS
    seed: int = SEED


def parse_weights(text: str) -> dict[str, float]:
    """`quality=.5,latency=.2`. BadInput with all that is wrong."""
    weights: dict[str, Any] = {}
    problems = []
    for part in text.split(","):
        name, equals, number = (word.strip() for word in part.partition("="))
        if name in weights:
            problems.append(f"{name}: given twice")
        try:
            weights[name] = float(number)
        except ValueError:
            weights[name] = 1.0
            what = f"{number!r} is no number" if equals else "expected NAME=NUMBER"
            problems.append(f"{name or part!r}: {what}")
    problems += [f"{name}: {problem}" if name else problem for name, problem in weight_problems(weights)]
    if problems:
        raise BadInput(
            f"--weights {text!r} cannot be used", details=problems, hint=f"for example --weights {EXAMPLE}"
        )
    return weights


def weight_problems(weights: Mapping[str, Any]) -> Iterator[tuple[str | None, str]]:
    """(criterion or None, what is wrong); a value that is no number is left to whoever reads it."""
    for name, value in weights.items():
        if name not in CRITERIA:
            near = nearest(str(name), CRITERIA)
            guess = f"did you mean {near[0]}?" if near else f"known: {', '.join(CRITERIA)}"
            yield name, f"no such criterion; {guess}"
        if isinstance(value, int | float) and not (math.isfinite(value) and value >= 0):
            yield name, f"expected a weight of 0 or more, got {value}"
    numbers = [value for value in weights.values() if isinstance(value, int | float)]
    if weights and numbers and not any(numbers):
        yield None, "expected a weight above 0 for one criterion at least"


def rank(values: Mapping[str, Mapping[str, float | None]], weights: Mapping[str, float]) -> Ranking | None:
    """Rank systems by criterion -> value (see CRITERIA); None where no two systems can be told apart by it.

    A criterion that fewer than two systems know is dropped; a system that lacks one that counts is unranked.
    """
    wanted = [name for name in CRITERIA if weights.get(name, 0.0) > 0]
    dropped = {}
    for name in wanted:
        known = sum(row.get(name) is not None for row in values.values())
        if known < 2:
            dropped[name] = f"known of {known} of {len(values)} systems"
    used = [name for name in wanted if name not in dropped]
    unranked = {
        system: f"{' and '.join(lacking)} not known"
        for system, row in values.items()
        if (lacking := [name for name in used if row.get(name) is None])
    }
    systems = [system for system in values if system not in unranked]
    if not used or len(systems) < 2:
        return None
    scores = {name: _scores({one: values[one][name] for one in systems}, CRITERIA[name]) for name in used}
    total = sum(weights[name] for name in used)
    shares = {name: weights[name] / total for name in used}
    sums = {one: sum(shares[name] * scores[name][one] for name in used) for one in systems}
    first = _first_shares(scores, systems)
    order = sorted(systems, key=lambda one: (-sums[one], one))
    standings = [
        Standing(
            name=one,
            score=sums[one],
            scores={name: scores[name][one] for name in used},
            first_share=first[one],
        )
        for one in order
    ]
    holds = {name: _holds(name, shares, scores, order) for name in used}
    return Ranking(
        weights=shares, standings=tuple(standings), holds=holds, dropped=dropped, unranked=unranked
    )


def _scores(values: Mapping[str, float | None], lower_wins: bool) -> dict[str, float]:
    """0 for the worst, 1 for the best; all 1 where they are alike. A cost of 0 counts as a tiny one."""
    known = {name: value for name, value in values.items() if value is not None}
    if lower_wins:
        least = min((value for value in known.values() if value > 0), default=1.0) / 10
        known = {name: -math.log(max(value, least)) for name, value in known.items()}
    low, high = min(known.values()), max(known.values())
    return {name: (value - low) / (high - low) if high > low else 1.0 for name, value in known.items()}


def _first_shares(scores: Mapping[str, Mapping[str, float]], systems: list[str]) -> dict[str, float]:
    """The share of weightings, drawn evenly (Dirichlet of ones), that each is first in; ties are shared."""
    import numpy as np

    matrix = np.array([[scores[name][one] for name in scores] for one in systems])
    drawn = np.random.default_rng(SEED).dirichlet(np.ones(len(scores)), size=DRAWS)
    sums = drawn @ matrix.T
    winners = sums >= sums.max(axis=1, keepdims=True) - TIE
    shares = (winners / winners.sum(axis=1, keepdims=True)).mean(axis=0)
    return dict(zip(systems, shares.tolist(), strict=True))


def _holds(
    name: str, shares: Mapping[str, float], scores: Mapping[str, Mapping[str, float]], order: list[str]
) -> tuple[float, float]:
    """The weights of one criterion at which the first stays first: the sums are straight lines in it."""
    rest = {other: share for other, share in shares.items() if other != name}
    total = sum(rest.values())
    if not total:
        return 0.0, 1.0

    def others(system: str) -> float:
        return sum(share / total * scores[other][system] for other, share in rest.items())

    low, high = 0.0, 1.0
    first = order[0]
    for rival in order[1:]:
        without = others(first) - others(rival)
        slope = scores[name][first] - scores[name][rival] - without
        if abs(slope) > TIE:
            crossing = -without / slope
            low, high = (max(low, crossing), high) if slope > 0 else (low, min(high, crossing))
    return low, high
