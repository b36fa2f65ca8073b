"""Rankings, and exact nearest-neighbour search by inner product, in blocks, with one written tie rule.

The tie rule, everywhere: by score, highest first; equal scores by document id, lowest first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix = NDArray[np.float32]

BLOCK_SCORES = 16_000_000  # scores held at once: 64 MiB
NOTHING = -1


@dataclass(frozen=True)
class Ranking:
    """For each query its documents, best first.

    order: (queries, k), places in `ids`, -1 where a list is shorter than k; scores: the same shape.
    """

    ids: tuple[str, ...]
    order: NDArray[np.int32]
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.order)

    def row(self, query: int, k: int | None = None) -> list[str]:
        """The ids of one query's documents, best first."""
        return [self.ids[place] for place in self.order[query][:k] if place != NOTHING]

    def top(self, k: int) -> Ranking:
        return Ranking(self.ids, self.order[:, :k], self.scores[:, :k])


def rank(queries: Matrix, documents: Matrix, ids: Sequence[str], k: int) -> Ranking:
    """For each query its `k` best documents by inner product: cosine where both are normalised.

    queries: (n, d), documents: (m, d), ids: m document ids. Memory is bounded to blocks of scores.
    """
    by_id = sorted(range(len(ids)), key=lambda place: ids[place])
    matrix = documents[by_id]

    def blocks() -> Iterable[Matrix]:
        step = max(1, BLOCK_SCORES // max(1, len(ids)))
        for start in range(0, len(queries), step):
            yield from queries[start : start + step] @ matrix.T

    return rank_scores(blocks(), [ids[place] for place in by_id], len(queries), k)


def rank_scores(
    rows: Iterable[Matrix], ids: Sequence[str], n: int, k: int, *, above: float | None = None
) -> Ranking:
    """A ranking from rows of scores, one a query, whose columns are `ids` in ascending order.

    `above` leaves out documents that score no more (a lexical system does not find what scores 0).
    """
    import numpy as np

    k = min(k, len(ids))
    order = np.full((n, k), NOTHING, dtype=np.int32)
    scores = np.zeros((n, k), dtype=np.float32)
    for query, row in enumerate(rows):
        places = best(row, k)
        if above is not None:
            places = places[row[places] > above]
        order[query, : len(places)] = places
        scores[query, : len(places)] = row[places]
    return Ranking(tuple(ids), order, scores)


def best(row: Matrix, k: int) -> NDArray[np.int64]:
    """Places of the k highest values, ties by the lower place, also on the edge of the k."""
    import numpy as np

    if k < len(row):
        edge = np.partition(row, len(row) - k)[len(row) - k]
        candidates = np.flatnonzero(row >= edge)
    else:
        candidates = np.arange(len(row))
    chosen: NDArray[np.int64] = candidates[np.argsort(-row[candidates], kind="stable")[:k]]
    return chosen


def from_lists(lists: Sequence[Mapping[str, float]], ids: Iterable[str], k: int) -> Ranking:
    """A ranking from each query's document ids with their scores."""
    import numpy as np

    names = tuple(sorted(ids))
    place = {name: index for index, name in enumerate(names)}
    k = min(k, len(names))
    order = np.full((len(lists), k), NOTHING, dtype=np.int32)
    scores = np.zeros((len(lists), k), dtype=np.float32)
    for query, found in enumerate(lists):
        ordered = sorted(found.items(), key=lambda item: (-item[1], item[0]))[:k]
        for position, (name, value) in enumerate(ordered):
            order[query, position] = place[name]
            scores[query, position] = value
    return Ranking(names, order, scores)


def rescore(ranking: Ranking, k: int, score: Callable[[int, list[str]], Sequence[float]]) -> Ranking:
    """Each query's first k documents in the order of new scores; what stood below them stays below.

    `score(query, ids)` gives one number a document. The scores of the tail mean nothing any more: 0.
    """
    import numpy as np

    order = ranking.order.copy()
    scores = np.zeros_like(ranking.scores)
    for query in range(len(ranking)):
        head = [place for place in ranking.order[query][:k] if place != NOTHING]
        names = [ranking.ids[place] for place in head]
        given = list(score(query, names)) if names else []
        ordered = sorted(zip(given, names, head, strict=True), key=lambda item: (-item[0], item[1]))
        for position, (value, _, place) in enumerate(ordered):
            order[query, position] = place
            scores[query, position] = value
    return Ranking(ranking.ids, order, scores)
