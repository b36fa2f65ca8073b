"""Reciprocal rank fusion: several rankings of the same queries as one.

Cormack, Clarke, Buettcher, SIGIR 2009: a document's score is the sum of 1 / (60 + rank) over the rankings.
"""

from __future__ import annotations

from collections.abc import Sequence

from deploytool.retrieval.search import Ranking, from_lists

K = 60


def fuse(rankings: Sequence[Ranking], k: int) -> Ranking:
    """The fused ranking, `k` documents a query. All rankings hold the same queries in the same order."""
    fused: list[dict[str, float]] = []
    for query in range(len(rankings[0])):
        scores: dict[str, float] = {}
        for ranking in rankings:
            for position, document in enumerate(ranking.row(query), 1):
                scores[document] = scores.get(document, 0.0) + 1 / (K + position)
        fused.append(scores)
    names = {name for ranking in rankings for name in ranking.ids}
    return from_lists(fused, names, k)
