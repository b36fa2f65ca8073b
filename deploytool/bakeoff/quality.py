"""Which differences of quality are real: each system against the best, by the paired permutation test.

Several systems are compared with the best of them, so the p-values of one set and metric are adjusted together
(Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6, 1979).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from deploytool.decision import QUALITY, RANKED_BY, Against, Quality
from deploytool.evaluation import EvalRecord
from deploytool.retrieval.intervals import Difference, paired

LEVEL = 0.05


def compared(records: Mapping[str, EvalRecord]) -> dict[str, dict[str, Quality]]:
    """System -> metric -> its figure, for the records of one data set (the same queries)."""
    found: dict[str, dict[str, Quality]] = {name: {} for name in records}
    for metric in QUALITY:
        best = max(records, key=lambda name: records[name].metrics[metric].value, default=None)
        if best is None:
            continue
        tested = {
            name: paired(record.per_query[metric], records[best].per_query[metric])
            for name, record in records.items()
            if name != best
        }
        adjusted = holm({name: one.p_value for name, one in tested.items()})
        for name, record in records.items():
            figure = record.metrics[metric]
            against = _against(best, tested[name], adjusted[name]) if name != best else None
            found[name][metric] = Quality(value=figure.value, ci95=figure.ci95, against=against)
    return found


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p-values, each at least as large as those before it, at most 1."""
    adjusted: dict[str, float] = {}
    highest = 0.0
    for place, name in enumerate(sorted(p_values, key=lambda one: p_values[one])):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[name]))
        adjusted[name] = highest
    return adjusted


def _against(best: str, tested: Difference, p_adjusted: float) -> Against:
    span = tested.interval
    return Against(
        best=best,
        value=span.value,
        ci95=(span.low, span.high),
        p=tested.p_value,
        p_adjusted=p_adjusted,
        real=p_adjusted < LEVEL,
    )


def by_dims(record: EvalRecord) -> dict[str, Quality]:
    """The metric of the ranking at each size of the vectors, against the first size; largest first."""
    changes = {size: cut.change[RANKED_BY] for size, cut in record.by_dims.items() if RANKED_BY in cut.change}
    adjusted = holm({size: change.p for size, change in changes.items()})
    found = {}
    for size in _largest_first(list(record.by_dims)):
        figure = record.by_dims[size].metrics[RANKED_BY]
        against = None
        if size in changes:
            change = changes[size]
            against = Against(
                best=f"{record.dims} dims",
                value=change.value,
                ci95=change.ci95,
                p=change.p,
                p_adjusted=adjusted[size],
                real=adjusted[size] < LEVEL,
            )
        found[size] = Quality(value=figure.value, ci95=figure.ci95, against=against)
    return found


def _largest_first(sizes: Sequence[str]) -> list[str]:
    return sorted(sizes, key=int, reverse=True)
