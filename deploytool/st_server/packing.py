"""Which waiting texts share a forward. Pure arithmetic over token lengths.

A forward of n texts costs about `overhead + n * longest` tokens: everyone is padded to the longest. So a
batch is a run of neighbours in length, it holds the text whose turn it is, and it ends where the padding
would cost more than another forward's overhead, or where the budget is full.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True)
class Limits:
    """`budget`: padded tokens of a forward at most. `overhead`: what a forward costs by itself, in tokens."""

    budget: int
    overhead: int


def padded_tokens(lengths: Sequence[int]) -> int:
    """Tokens that a forward over these lengths computes, padding included."""
    return max(lengths) * len(lengths) if lengths else 0


def choose(lengths: Sequence[int], turn: int, limits: Limits) -> tuple[int, int]:
    """The run [first, last) of `lengths` to compute next; it holds index `turn`.

    `lengths` is sorted, longest first. Of all runs within the limits the one with the most real tokens is
    taken. A single text is always within the limits.
    """
    sums = [0, *accumulate(lengths)]
    if _end(lengths, sums, 0, limits) == len(lengths):
        return 0, len(lengths)
    best = (turn, turn + 1)
    best_real = lengths[turn]
    for first in range(turn, -1, -1):
        if lengths[first] * (turn + 1 - first) > limits.budget:
            break
        last = _end(lengths, sums, first, limits)
        real = sums[last] - sums[first]
        if last > turn and real > best_real:
            best, best_real = (first, last), real
    return best


def _end(lengths: Sequence[int], sums: Sequence[int], first: int, limits: Limits) -> int:
    """The end of the longest run from `first` that keeps within the limits."""
    longest = max(1, lengths[first])
    low, high = first + 1, min(len(lengths), first + max(1, limits.budget // longest))
    while low < high:  # later texts are shorter and waste more: the last run that holds is found by halving
        middle = (low + high + 1) // 2
        padded = longest * (middle - first)
        if padded - (sums[middle] - sums[first]) <= limits.overhead:
            low = middle
        else:
            high = middle - 1
    return low
