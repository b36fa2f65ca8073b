"""Static word vectors through Sentence Transformers' own module: the mean of a text's words, of length 1."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deploytool.st_server.backends import plain, probe
from deploytool.st_server.backends.base import Stage
from deploytool.st_server.backends.plain import PlainBackend
from deploytool.st_server.config import Config
from deploytool.st_server.words import WordTokenizer, read_words


def _static_embedding() -> Any:
    """Where the module is: sentence-transformers 6 moved it."""
    try:
        from sentence_transformers.sentence_transformer import modules
    except ImportError:
        from sentence_transformers import models as modules
    return modules.StaticEmbedding


def load(config: Config, folder: Path, stage: Stage) -> PlainBackend:
    """`folder` is the text file. Raises StartError."""
    plain.check(config)
    stage("reading word vectors")
    words, matrix = read_words(folder)
    tokenizer = WordTokenizer(words, max_length=plain.max_length(config))
    module = _static_embedding()(tokenizer.backend, embedding_weights=matrix).eval()

    def compute(batch: Sequence[Sequence[int]]) -> torch.Tensor:
        starts = np.cumsum([0, *(len(row) for row in batch[:-1])])
        ids = torch.tensor([token for row in batch for token in row])
        found: torch.Tensor = module({"input_ids": ids, "offsets": torch.from_numpy(starts)})[
            "sentence_embedding"
        ]
        return found

    backend = PlainBackend(compute, tokenizer, config, dimensions=matrix.shape[1], normalize=True)
    stage("comparing vectors")
    plain.prove(
        backend,
        probe.PROBES,
        lambda texts: np.stack([matrix[row].mean(axis=0) for row in tokenizer.encode(texts, truncate=True)]),
    )
    return backend
