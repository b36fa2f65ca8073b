"""What a backend is: token ids in, float32 vectors out. Tokens, batching and HTTP are not its business."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from deploytool.st_server.config import Config
from deploytool.st_server.errors import BadUsage
from deploytool.st_server.packing import Limits
from deploytool.st_server.tokens import TextTokenizer

Vectors = npt.NDArray[np.float32]
Stage = Callable[[str], None]

MAX_LANES = 4  # on a processor, without --lanes
MAX_THREADS_ALONE = 8  # more only wait for each other over one text


@dataclass(frozen=True)
class ModelInfo:
    """What is served. `max_length` is tokens per text, special tokens counted."""

    model: str
    dimensions: int
    max_length: int
    vocabulary: int
    normalized: bool
    backend: str
    dtype: str
    device: str
    reranks: bool = False  # scores of pairs, in place of vectors; `dimensions` is then 1


def max_length(own: int | None, positions: int | None, config: Config) -> int:
    """Tokens read of a text: --max-length or the model's own, within its positions and the batch budget.

    Raises BadUsage.
    """
    if positions is not None:
        own = min(own or positions, positions)  # some tokenizers say 1e30
    if config.max_length is not None:
        if positions is not None and config.max_length > positions:
            raise BadUsage(
                f"--max-length {config.max_length}: the model has positions for {positions} tokens"
            )
        own = config.max_length
    if own is None:
        raise BadUsage(f"{config.model} does not say how many tokens it reads", hint="--max-length N")
    return min(int(own), config.max_batch_tokens)


class Backend(Protocol):
    """A loaded model. `embed` is called from `lanes` threads at once; a reranker gives it [len(batch), 1].

    `warmed_mib`: card memory that warming up reserved and that stays so; None before it, or without a card.
    """

    info: ModelInfo
    tokenizer: TextTokenizer
    lanes: int
    warmed_mib: float | None

    def warm_up(self) -> Limits:
        """Compute over the lengths once, so that no client pays for it; returns how to pack for this model.

        Raises StartError.
        """
        ...

    def embed(self, batch: Sequence[Sequence[int]], *, alone: bool) -> Vectors:
        """float32 [len(batch), dimensions]. `alone`: nothing else is computed now, all threads are free.

        Raises OutOfMemory or DeviceLost (errors.py); anything else fails the batch.
        """
        ...


class Loader(Protocol):
    """`folder` holds the model's files; `stage` is told what is being done. Raises StartError."""

    def __call__(self, config: Config, folder: Path, stage: Stage) -> Backend: ...
