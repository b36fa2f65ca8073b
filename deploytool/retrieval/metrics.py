"""Retrieval metrics of one ranking, and their means. Pure; checked in tests against `ir-measures`.

The one tie rule: documents are ranked by score, highest first; equal scores by document id, lowest first.
Definitions as in trec_eval (https://github.com/usnistgov/trec_eval): nDCG takes the grade as gain and
log2(rank + 1) as discount; MAP divides by all relevant documents; Recall@k likewise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

METRICS = (
    "recall@1",
    "recall@5",
    "recall@10",
    "hit_rate@1",
    "hit_rate@5",
    "hit_rate@10",
    "mrr@10",
    "ndcg@10",
    "map",
)


def score(ranking: Sequence[str], grades: Mapping[str, int]) -> dict[str, float]:
    """All metrics of one query. `ranking`: document ids, best first; `grades`: relevant ids, grade > 0.

    MAP is over the ranking as given: the textbook's over the whole corpus, trec_eval's usual one over 1000.
    """
    ranks = [rank for rank, document in enumerate(ranking, 1) if document in grades]
    values: dict[str, float] = {}
    for k in (1, 5, 10):
        found = sum(rank <= k for rank in ranks)
        values[f"recall@{k}"] = found / len(grades)
        values[f"hit_rate@{k}"] = float(found > 0)
    values["mrr@10"] = 1 / ranks[0] if ranks and ranks[0] <= 10 else 0.0
    values["ndcg@10"] = dcg([grades.get(document, 0) for document in ranking[:10]]) / dcg(
        sorted(grades.values(), reverse=True)[:10]
    )
    values["map"] = sum(index / rank for index, rank in enumerate(ranks, 1)) / len(grades)
    return {name: values[name] for name in METRICS}


def dcg(gains: Sequence[int]) -> float:
    """Discounted cumulative gain of a list of grades, best rank first."""
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, 1))


def score_all(
    rankings: Iterable[Sequence[str]], relevant: Sequence[Mapping[str, int]]
) -> dict[str, list[float]]:
    """Per metric one value a query: `rankings` and `relevant` in the same order of queries."""
    values: dict[str, list[float]] = {name: [] for name in METRICS}
    for ranking, grades in zip(rankings, relevant, strict=True):
        for name, value in score(ranking, grades).items():
            values[name].append(value)
    return values
