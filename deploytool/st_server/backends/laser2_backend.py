"""LASER2: SentencePiece, a bidirectional LSTM, the maximum over its outputs. No fairseq.

The architecture is that of laser_encoders/models.py (facebookresearch/LASER, LaserLstmEncoder), the way of a
text to its ids that of laser_encoders/laser_tokenizer.py. Weights are read from the folder that
`python -m deploytool.st_server.convert_laser2` writes: safetensors and JSON, no pickle.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from deploytool.st_server.backends import plain, probe
from deploytool.st_server.backends.base import Stage
from deploytool.st_server.backends.plain import PlainBackend
from deploytool.st_server.config import Config
from deploytool.st_server.errors import LoadFailed
from deploytool.st_server.laser2 import PAD, Laser2Files, Laser2Tokenizer, read_files


class Laser2(torch.nn.Module):  # type: ignore[misc]
    """Token ids, padded on the right with PAD, to [texts, 2 * hidden]."""

    def __init__(self, *, num_embeddings: int, embed_dim: int, hidden_size: int, num_layers: int) -> None:
        super().__init__()
        self.embed_tokens = torch.nn.Embedding(num_embeddings, embed_dim, padding_idx=PAD)
        self.lstm = torch.nn.LSTM(embed_dim, hidden_size, num_layers, bidirectional=True, batch_first=True)

    def forward(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        packed = torch.nn.utils.rnn.pack_padded_sequence(
            self.embed_tokens(ids), lengths, batch_first=True, enforce_sorted=False
        )
        outputs, _ = self.lstm(packed)
        # What lies behind a text's end must not win.
        states, _ = torch.nn.utils.rnn.pad_packed_sequence(
            outputs, batch_first=True, padding_value=float("-inf")
        )
        return states.amax(dim=1)

    def compute(self, batch: Sequence[Sequence[int]]) -> torch.Tensor:
        lengths = torch.tensor([len(row) for row in batch])
        ids = torch.full((len(batch), int(lengths.max())), PAD)
        for place, row in enumerate(batch):
            ids[place, : len(row)] = torch.tensor(row)
        found: torch.Tensor = self(ids, lengths)
        return found


def load(config: Config, folder: Path, stage: Stage) -> PlainBackend:
    """Raises StartError."""
    plain.check(config)
    stage("loading model")
    files = read_files(folder)
    model = _model(files)
    tokenizer = Laser2Tokenizer(files, max_length=plain.max_length(config))
    backend = PlainBackend(
        model.compute, tokenizer, config, dimensions=2 * files.hidden_size, normalize=config.normalize
    )
    stage("comparing vectors")
    plain.prove(
        backend,
        probe.PROBES,
        lambda texts: torch.cat(
            [model.compute([row]) for row in tokenizer.encode(texts, truncate=True)]
        ).detach().numpy(),
    )  # fmt: skip
    return backend


def _model(files: Laser2Files) -> Laser2:
    model = Laser2(
        num_embeddings=files.num_embeddings,
        embed_dim=files.embed_dim,
        hidden_size=files.hidden_size,
        num_layers=files.num_layers,
    )
    try:
        state: dict[str, Any] = load_file(files.weights)
        model.load_state_dict(state)
    except (OSError, RuntimeError, ValueError) as error:
        raise LoadFailed(f"{files.weights} does not hold LASER2's weights: {error}") from error
    model.float().eval()  # in place
    return model
