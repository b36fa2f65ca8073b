"""Models that are no transformers: a torch function from token ids to one vector a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from deploytool.st_server.backends.base import ModelInfo
from deploytool.st_server.backends.padding import overhead
from deploytool.st_server.config import Config
from deploytool.st_server.errors import BackendError, LoadFailed, NotServable, OutOfMemory
from deploytool.st_server.packing import Limits
from deploytool.st_server.tokens import TextTokenizer
from deploytool.st_server.vectors import unit

Vectors = npt.NDArray[np.float32]
CPU_BATCH_TOKENS = 4096
DEFAULT_LENGTH = 8192  # tokens: these models have no limit of their own


class Compute(Protocol):
    """float32 [texts, dimensions] of token ids; any lengths, none of them 0."""

    def __call__(self, batch: Sequence[Sequence[int]]) -> torch.Tensor: ...


class PlainBackend:
    """See backends.base.Backend. Computes in float32 on processors."""

    def __init__(
        self, compute: Compute, tokenizer: TextTokenizer, config: Config, *, dimensions: int, normalize: bool
    ) -> None:
        self._compute = compute
        self._normalize = normalize
        self._budget = min(config.max_batch_tokens, CPU_BATCH_TOKENS)
        self.tokenizer = tokenizer
        self.lanes = 1
        self.info = ModelInfo(
            model=config.model,
            dimensions=dimensions,
            max_length=tokenizer.max_length,
            vocabulary=tokenizer.vocabulary,
            normalized=normalize,
            backend="torch",
            dtype="float32",
            device="cpu",
        )

    def warm_up(self) -> Limits:
        cost = overhead(
            lambda batch: self.embed(batch, alone=False),
            token=self.info.vocabulary - 1, budget=self._budget, longest=self.info.max_length,
        )  # fmt: skip
        return Limits(self._budget, cost)

    def embed(self, batch: Sequence[Sequence[int]], *, alone: bool) -> Vectors:  # noqa: ARG002 - one lane
        problem: BackendError
        try:
            with torch.inference_mode():
                vectors: Vectors = self._compute(batch).float().numpy()
            return unit(vectors) if self._normalize else vectors
        except RuntimeError as error:
            if "can't allocate memory" not in str(error) and "not enough memory" not in str(error):
                raise
            problem = OutOfMemory(str(error).splitlines()[0])
        raise problem


def check(config: Config) -> None:
    """Raises NotServable for flags that only a transformer can follow; sets the threads."""
    if config.backend not in ("auto", "torch"):
        raise NotServable(f"--backend {config.backend}: this model is computed by torch", hint="leave it out")
    if config.dtype not in ("auto", "float32") or config.device not in ("auto", "cpu"):
        raise NotServable(
            f"--dtype {config.dtype} --device {config.device}: this model is computed in float32 on processors",
            hint="--dtype float32 --device cpu",
        )
    if config.pooling is not None:
        raise NotServable("this model has a pooling of its own", hint="leave out --pooling")
    torch.set_num_threads(config.threads)


def max_length(config: Config) -> int:
    return min(config.max_length or DEFAULT_LENGTH, config.max_batch_tokens)


def prove(backend: PlainBackend, texts: Sequence[str], reference: Callable[[Sequence[str]], Vectors]) -> None:
    """Raises LoadFailed unless the vectors in one batch are those that `reference` gives."""
    ours = backend.embed(backend.tokenizer.encode(texts, truncate=True), alone=True)
    other = reference(texts)
    worst = float(np.abs(ours - (unit(other) if backend.info.normalized else other)).max())
    if not worst < 1e-4:
        raise LoadFailed(f"the vectors differ from the model's own by up to {worst:.2g}")
