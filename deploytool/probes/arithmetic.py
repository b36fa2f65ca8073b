"""Vector arithmetic for a few dozen vectors, without numpy: the bare install proves vectors too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import mul

Vector = Sequence[float]


def dot(left: Vector, right: Vector) -> float:
    return math.fsum(map(mul, left, right))


def norm(vector: Vector) -> float:
    """Euclidean length; NaN or infinity where a component is."""
    return math.hypot(*vector)


def cosine(left: Vector, right: Vector) -> float:
    """Cosine similarity; 0 where either is the zero vector, NaN where the widths differ."""
    if len(left) != len(right):
        return math.nan
    length = norm(left) * norm(right)
    return dot(left, right) / length if length else 0.0


def largest_difference(left: Vector, right: Vector) -> float:
    """The largest absolute difference of two components; infinity where the widths differ."""
    if len(left) != len(right):
        return math.inf
    return max((abs(a - b) for a, b in zip(left, right, strict=True)), default=0.0)


def not_finite(vector: Vector) -> int:
    """How many components are NaN or infinite."""
    return sum(not math.isfinite(value) for value in vector)
