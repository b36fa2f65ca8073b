"""A reranker (Sentence Transformers' CrossEncoder) in PyTorch: pairs of token ids in, one score each out.

The scores are those of `CrossEncoder.predict`, with the activation that the model ships (a sigmoid unless it
says otherwise); `prove` compares before the server is ready.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from deploytool.st_server.backends import probe, torch_model
from deploytool.st_server.backends.base import Stage
from deploytool.st_server.backends.torch_backend import TorchBackend
from deploytool.st_server.config import Config
from deploytool.st_server.errors import NotServable

# The largest difference that counts as equal, of scores about 1: half precision rounds by the batch's padding.
SAME = {"float32": 1e-3, "float16": 0.03, "bfloat16": 0.1}


def load(config: Config, folder: Path, stage: Stage) -> TorchReranker:
    """Raises StartError."""
    torch.set_num_threads(config.threads)
    loaded = torch_model.load(config, folder, stage, reranks=True)
    backend = TorchReranker(loaded, config)
    stage("comparing scores")
    backend.prove(config)
    return backend


class TorchReranker(TorchBackend):
    """See backends.base.Backend; `embed` gives scores, [len(batch), 1]."""

    reranks = True

    def prove(self, config: Config) -> None:
        """Compare with `predict`. Raises NotServable."""
        del config
        if self._model.num_labels != 1:
            raise NotServable(
                f"{self.info.model} gives {self._model.num_labels} scores for a pair: it does not rank"
            )
        if self.prompt:
            raise NotServable("the reranker has a prompt of its own, which is not served")
        query, *documents = probe.PROBES
        expected = self._model.predict([(query, text) for text in documents], show_progress_bar=False)
        self.tokenizer = self._tokenizer()
        ours = self.embed(self.tokenizer.pairs(query, documents, truncate=True), alone=True)[:, 0]
        expected = np.asarray(expected, np.float32)
        furthest = float(np.abs(ours - expected).max() / max(1.0, np.abs(expected).max()))
        if not furthest <= SAME[self.info.dtype]:  # also where it is NaN
            raise NotServable(
                f"the scores are not those of CrossEncoder.predict (they differ by {furthest:.4f})"
            )

    def _rows(self, features: dict[str, torch.Tensor]) -> torch.Tensor:
        scores: torch.Tensor = self._model(features)["scores"].float()
        activation: Any = self._model.activation_fn
        return (activation(scores) if activation is not None else scores).reshape(-1, 1)
