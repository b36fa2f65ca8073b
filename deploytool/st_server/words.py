"""A text file of word vectors (GloVe, or word2vec's text format, also .gz) -> words and a matrix. No torch.

One word a line and its numbers, separated by blanks. word2vec's first line holds the number of words and the
dimensions; GloVe has none. A word may hold blanks itself (GloVe's 840B has some): the numbers are counted from
the right.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from deploytool.st_server.errors import LoadFailed
from deploytool.st_server.tokens import TextTokenizer

UNKNOWN = "[UNK]"
Matrix = npt.NDArray[np.float32]


def read_words(path: Path) -> tuple[list[str], Matrix]:
    """Words and their vectors; last, for a text without a known word, UNKNOWN with the mean of all.

    Of a word that comes twice the first counts, as in Sentence Transformers. Raises LoadFailed with the line.
    """
    places: dict[str, int] = {}
    rows: list[Matrix] = []
    width = 0
    for number, line in _lines(path):
        parts = line.rstrip().split(" ")
        if number == 1 and len(parts) == 2 and all(part.isdecimal() for part in parts):
            width = int(parts[1])
            continue
        width = width or len(parts) - 1
        word, numbers = " ".join(parts[:-width]), parts[-width:]
        try:
            row = np.array(numbers, dtype=np.float32)
        except ValueError:
            row = np.empty(0, np.float32)
        if not word or len(row) != width or width < 2 or not np.isfinite(row).all():
            raise LoadFailed(
                f"{path}, line {number}: expected a word and {max(width, 2)} finite numbers, got {line[:60]!r}",
                hint="is it a text file of GloVe or word2vec? Its binary format is not read",
            )
        if word not in places and word != UNKNOWN:
            places[word] = len(rows)
            rows.append(row)
    if not rows:
        raise LoadFailed(f"{path} holds no word vectors")
    matrix = np.vstack(rows)
    return [*places, UNKNOWN], np.vstack([matrix, matrix.mean(axis=0, dtype=np.float64)], dtype=np.float32)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise LoadFailed(
            f"{path}, line {number}: not UTF-8 text", hint="the binary format of word2vec is not read"
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise LoadFailed(f"{path} cannot be read: {error}") from error


class WordTokenizer(TextTokenizer):
    """Words and punctuation as they stand in the file, lower-cased where it knows no capitals.

    Unknown words are left out. A text without any known word is UNKNOWN alone: a vector of zeros would have no
    direction.
    """

    def __init__(self, words: Sequence[str], *, max_length: int) -> None:
        vocabulary = {word: place for place, word in enumerate(words)}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        if all(word == word.lower() for word in words[:-1]):
            tokenizer.normalizer = normalizers.Lowercase()
        super().__init__(tokenizer, max_length=max_length, vocabulary=len(words))
        self._unknown = len(words) - 1

    def encode(
        self, texts: Sequence[str], *, truncate: bool = False, prompt: str | None = None
    ) -> list[list[int]]:
        """See TextTokenizer.encode."""
        rows = super().encode(texts, truncate=truncate, prompt=prompt)
        return [[token for token in row if token != self._unknown] or [self._unknown] for row in rows]
