"""Token ids of different lengths -> the rectangular arrays that a model's graph takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import numpy.typing as npt

from deploytool.st_server.tokens import second_part

Ids = Sequence[int]
Arrays = dict[str, npt.NDArray[np.int64]]


@dataclass(frozen=True)
class Padding:
    """`token` fills up to the longest text, on the left or the right; `type_ids`: the model takes them."""

    token: int
    left: bool
    type_ids: bool

    def arrays(self, batch: Sequence[Ids]) -> Arrays:
        """input_ids, attention_mask and, where the model takes them, token_type_ids.

        Each int64 [texts, longest].
        """
        longest = max(map(len, batch))
        ids = np.full((len(batch), longest), self.token, np.int64)
        mask = np.zeros_like(ids)
        types = np.zeros_like(ids) if self.type_ids else None
        for row, text in enumerate(batch):
            place = slice(longest - len(text), None) if self.left else slice(len(text))
            ids[row, place] = text
            mask[row, place] = 1
            if types is not None and (second := second_part(text)) is not None:
                types[row, place][second:] = 1
        features = {"input_ids": ids, "attention_mask": mask}
        if types is not None:
            features["token_type_ids"] = types
        return features


def overhead(compute: Callable[[Sequence[Ids]], object], *, token: int, budget: int, longest: int) -> int:
    """What a forward costs by itself, in tokens, from two sizes: time = overhead + tokens * slope."""

    def timed(texts: int, length: int) -> float:
        batch = [[token] * length] * texts
        best = float("inf")
        for _ in range(3):
            began = perf_counter()
            compute(batch)
            best = min(best, perf_counter() - began)
        return best

    short, length = min(8, longest), min(64, longest)
    texts = max(2, min(budget, 512) // length)
    alone = timed(1, short)
    slope = (timed(texts, length) - alone) / (texts * length - short)
    tokens = alone / slope - short if slope > 0 else budget
    return int(min(max(tokens, short), budget))
