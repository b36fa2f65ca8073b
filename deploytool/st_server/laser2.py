"""A folder with LASER2, and the way of a text to its ids. No torch.

A text's punctuation is normalised as Moses does, it is lower-cased and cut by SentencePiece; a piece that the
model's own dictionary lacks is <unk>, and </s> ends every text (laser_encoders/laser_tokenizer.py and
SentenceEncoder._tokenize, facebookresearch/LASER). Nothing is put in front.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploytool.st_server import model_folder
from deploytool.st_server.errors import LoadFailed, Missing
from deploytool.st_server.tokens import TextTokenizer, lone_surrogate

PIECES, WORDS, WEIGHTS = "sentencepiece.model", "vocab.json", "model.safetensors"
BOS, PAD, EOS, UNK = 0, 1, 2, 3
FIGURES = ("num_embeddings", "embed_dim", "hidden_size", "num_layers")


@dataclass(frozen=True)
class Laser2Files:
    num_embeddings: int
    embed_dim: int
    hidden_size: int
    num_layers: int
    vocabulary: dict[str, int]
    pieces: Path
    weights: Path


def read_files(folder: Path) -> Laser2Files:
    """Raises LoadFailed or Missing."""
    described = model_folder.document(folder, "config.json") or {}
    words = model_folder.document(folder, WORDS)
    figures: dict[str, Any] = {name: described.get(name) for name in FIGURES}
    if not all(isinstance(value, int) and value > 0 for value in figures.values()):
        raise LoadFailed(f"{folder / 'config.json'} lacks one of {', '.join(FIGURES)}")
    known = isinstance(words, dict) and all(isinstance(number, int) for number in words.values())
    if not known or not all(0 <= number < figures["num_embeddings"] for number in words.values()):
        raise LoadFailed(f"{folder / WORDS} is not the model's dictionary")
    if not (folder / PIECES).is_file():
        raise Missing(f"{folder / PIECES} is missing", hint="convert LASER2 again: see the card `laser`")
    return Laser2Files(**figures, vocabulary=words, pieces=folder / PIECES, weights=folder / WEIGHTS)


class Laser2Tokenizer(TextTokenizer):
    """Ids as LASER2 was trained with; `max_length` counts the closing </s>."""

    def __init__(self, files: Laser2Files, *, max_length: int) -> None:
        try:
            import sentencepiece
            from sacremoses import MosesPunctNormalizer
        except ImportError as error:
            raise Missing(
                f"LASER2 needs the package {error.name}", hint="pip install 'deploytool[laser]'"
            ) from error
        try:
            self._pieces = sentencepiece.SentencePieceProcessor(model_file=str(files.pieces))
        except (OSError, RuntimeError) as error:
            raise LoadFailed(f"{files.pieces} is not a SentencePiece model: {error}") from error
        self._words = files.vocabulary
        self._moses = MosesPunctNormalizer("en")
        self._lock = threading.Lock()  # Moses' rules are not documented as safe from several threads
        self._side = "right"
        self.max_length = max_length
        self.vocabulary = files.num_embeddings

    def encode(
        self, texts: Sequence[str], *, truncate: bool = False, prompt: str | None = None
    ) -> list[list[int]]:
        """See TextTokenizer.encode."""
        found = []
        for index, text in enumerate(texts):
            ids = self._ids((prompt or "") + text, index)
            if len(ids) > self.max_length:
                if not truncate:
                    raise self._too_long(f"input[{index}]", len(ids))
                ids = [*ids[: self.max_length - 1], EOS]
            found.append(ids)
        return found

    def _ids(self, text: str, index: int) -> list[int]:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise lone_surrogate(f"input[{index}]") from error
        with self._lock:
            plain = self._moses.normalize(text).lower()
            pieces: list[str] = self._pieces.encode(plain, out_type=str)
        return [*(self._words.get(piece, UNK) for piece in pieces), EOS]
