"""Arithmetic of embedding matrices: length one, cut to fewer dimensions, and what similarity tells apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deploytool.retrieval.search import Matrix


def normalised(matrix: Matrix) -> Matrix:
    """Rows of length 1; a row of zeros stays what it is. Half-precision servers are off by up to .4 %."""
    import numpy as np

    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    result: Matrix = (matrix / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return result


def cut(matrix: Matrix, dimensions: int) -> Matrix:
    """The first `dimensions` components, of length 1 again (Matryoshka; without it ranks are lost)."""
    return normalised(matrix[:, :dimensions])


def cosines(a: Matrix, b: Matrix) -> list[float]:
    """Cosine of each row of `a` with the same row of `b`, in float64."""
    import numpy as np

    x, y = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    values: list[float] = ((x * y).sum(axis=1) / np.where(lengths > 0, lengths, 1)).tolist()
    return values


@dataclass(frozen=True)
class Similarity:
    """Mean cosine of relevant pairs and of all pairs; `z` is their distance in standard deviations.

    A high mean cosine alone says nothing: some models give .7 to any two texts.
    """

    positives: float
    all_pairs: float
    all_pairs_sd: float

    @property
    def margin(self) -> float:
        return self.positives - self.all_pairs

    @property
    def z(self) -> float | None:
        return self.margin / self.all_pairs_sd if self.all_pairs_sd > 0 else None


def similarity(
    queries: Matrix,
    documents: Matrix,
    query_ids: Sequence[str],
    document_ids: Sequence[str],
    relevant: Mapping[str, Mapping[str, int]],
) -> Similarity:
    """Over normalised vectors. All pairs are summed in closed form, not visited: O((n + m) d^2)."""
    import numpy as np

    place = {name: index for index, name in enumerate(document_ids)}
    pairs = [(row, place[name]) for row, query in enumerate(query_ids) for name in relevant.get(query, ())]
    q, d = queries.astype(np.float64), documents.astype(np.float64)
    rows, columns = np.array([row for row, _ in pairs]), np.array([column for _, column in pairs])
    positives = float((q[rows] * d[columns]).sum(axis=1).mean())
    mean = float(q.mean(axis=0) @ d.mean(axis=0))
    squares = float(((q.T @ q) * (d.T @ d)).sum()) / (len(q) * len(d))
    return Similarity(positives, mean, max(0.0, squares - mean**2) ** 0.5)
