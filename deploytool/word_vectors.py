"""The card of a text file of word vectors (GloVe, word2vec's text format): its size and dimensions."""

from __future__ import annotations

import gzip
import zlib
from itertools import islice
from pathlib import Path

from deploytool.errors import BadInput
from deploytool.models import Architecture, EngineSupport, ModelCard

ENDINGS = (".txt", ".vec", ".txt.gz", ".vec.gz")
GZIPPED = 2.4  # text of GloVe to its gzip
SAMPLE = 200  # lines


def is_word_vectors(path: Path) -> bool:
    return path.name.lower().endswith(ENDINGS) and path.is_file()


def read_word_vectors(path: Path) -> ModelCard:
    """The number of words is estimated by the first lines. Raises BadInput for a file of another kind."""
    lines = _first_lines(path)
    first = lines[0].split(" ") if lines else []
    headed = len(first) == 2 and all(part.isdecimal() for part in first)
    rows = lines[1:] if headed else lines
    width = int(first[1]) if headed else (len(rows[0].split(" ")) - 1 if rows else 0)
    if width < 2 or not _numbers(rows[0] if rows else "", width):
        raise BadInput(
            f"{path} is no text file of word vectors: expected a word and its numbers on every line",
            hint="GloVe's files and word2vec's text format are read, also as .gz; give a folder for other models",
        )
    size = path.stat().st_size * (GZIPPED if path.name.lower().endswith(".gz") else 1)
    words = int(first[0]) if headed else max(1, round(size / (sum(map(len, rows)) / len(rows) + 1)))
    name = path.name
    for ending in sorted(ENDINGS, key=len, reverse=True):
        name = name[: -len(ending)] if name.lower().endswith(ending) else name
    return ModelCard(
        name=name,
        title=name,
        kind="embedding",
        folder=str(path),
        parameters=words * width,
        weights_dtype="float32",
        # One layer of its width: a mean of rows takes less.
        architecture=Architecture(
            class_name="StaticEmbedding", model_type="static", hidden=width, intermediate=width,
            layers=1, heads=1, kv_heads=1, head_dim=width, vocab=words,
        ),
        dimensions=width,
        pooling="mean",
        normalize=True,
        licence="unknown",
        engines={
            "sglang": EngineSupport(verdict="unsupported", reason="word vectors, no transformer"),
            "sentence-transformers": EngineSupport(
                verdict="ok", reason="the mean of a text's words (StaticEmbedding): a baseline"
            ),
        },
        notes=("static word vectors: the mean of a text's words, no word order; a baseline",),
        sources=(f"the first lines of {path}",),
        origin=f"file {path}",
    )  # fmt: skip


def _first_lines(path: Path) -> list[str]:
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            return [line.decode("utf-8").rstrip() for line in islice(file, SAMPLE) if line.strip()]
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise BadInput(
            f"{path} cannot be read as text: {error}", hint="the binary format of word2vec is not read"
        ) from error


def _numbers(line: str, width: int) -> bool:
    parts = line.split(" ")
    try:
        return len([float(part) for part in parts[-width:]]) == width < len(parts)
    except ValueError:
        return False
