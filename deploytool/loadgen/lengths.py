"""How long the texts are: distributions of tokens, and cutting or joining texts to a drawn length.

Tokens are counted by the model's own tokenizer.json where it is at hand (package `tokenizers`), special
tokens included; else they are estimated from words and characters, and the record says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, Protocol

from deploytool.errors import BadInput

FORMS = "fixed:N, uniform:A-B, lognormal:MU,SIGMA (of ln tokens) or histogram:FILE (lines 'TOKENS COUNT')"
MOST_TOKENS = 131_072
MOST_EMPTY = 1000  # texts without a token in a row
ESTIMATED = "estimated from words"
# CJK characters are tokens of their own in most vocabularies; other words are cut about every five
# characters.
_PIECE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|\w{1,5}|[^\w\s]")


class Lengths(NamedTuple):
    """A distribution of tokens per text. `mean` is used to bound the work of making texts."""

    spec: str
    draw: Callable[[Random], int]
    mean: float


def parse(spec: str) -> Lengths:
    """Read --text-tokens. Raises BadInput with the forms that there are."""
    kind, _, rest = spec.partition(":")
    try:
        if kind == "fixed":
            return _fixed(spec, int(rest))
        if kind == "uniform":
            low, high = (int(part) for part in rest.split("-"))
            return _uniform(spec, low, high)
        if kind == "lognormal":
            mu, sigma = (float(part) for part in rest.split(","))
            return _lognormal(spec, mu, sigma)
        if kind == "histogram":
            return _histogram(spec, Path(rest))
    except (ValueError, OverflowError) as error:
        raise BadInput(f"--text-tokens {spec!r}: {error}", hint=f"forms: {FORMS}") from error
    raise BadInput(f"--text-tokens {spec!r} is no distribution", hint=f"forms: {FORMS}")


def _fixed(spec: str, tokens: int) -> Lengths:
    if not 1 <= tokens <= MOST_TOKENS:
        raise ValueError(f"expected 1 to {MOST_TOKENS} tokens")
    return Lengths(spec, lambda _: tokens, tokens)


def _uniform(spec: str, low: int, high: int) -> Lengths:
    if not 1 <= low <= high <= MOST_TOKENS:
        raise ValueError(f"expected 1 <= A <= B <= {MOST_TOKENS}")
    return Lengths(spec, lambda chance: chance.randint(low, high), (low + high) / 2)


def _lognormal(spec: str, mu: float, sigma: float) -> Lengths:
    if not (0 <= mu <= 12 and 0 <= sigma <= 3):
        raise ValueError("expected 0 <= MU <= 12 and 0 <= SIGMA <= 3")

    def draw(chance: Random) -> int:
        return max(1, min(MOST_TOKENS, round(chance.lognormvariate(mu, sigma))))

    return Lengths(spec, draw, min(float(MOST_TOKENS), 2.718281828 ** (mu + sigma * sigma / 2)))


def _histogram(spec: str, path: Path) -> Lengths:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    tokens: list[int] = []
    counts: list[float] = []
    for number, line in enumerate(lines, start=1):
        words = line.partition("#")[0].replace(",", " ").split()
        if not words:
            continue
        try:
            length, count = int(words[0]), float(words[1])
        except (ValueError, IndexError):
            raise ValueError(f"{path}:{number}: expected 'TOKENS COUNT', found {line.strip()!r}") from None
        if len(words) != 2 or not 1 <= length <= MOST_TOKENS or not 0 <= count < float("inf"):
            raise ValueError(f"{path}:{number}: expected 1 to {MOST_TOKENS} tokens and a count of 0 or more")
        tokens.append(length)
        counts.append(count)
    if not sum(counts):
        raise ValueError(f"{path} holds no counts")
    mean = sum(t * c for t, c in zip(tokens, counts, strict=True)) / sum(counts)
    return Lengths(spec, lambda chance: chance.choices(tokens, counts)[0], mean)


class Counter(Protocol):
    """Counts tokens and cuts texts. `unit` says what a token is here."""

    unit: str
    special: int

    def count(self, text: str) -> int: ...

    def cut(self, text: str, tokens: int) -> str | None:
        """The beginning of `text` that has so many tokens; None where it has fewer."""


class WordCounter:
    """An estimate: no tokenizer is at hand."""

    unit = ESTIMATED
    special = 2

    def count(self, text: str) -> int:
        return sum(1 for _ in _PIECE.finditer(text))

    def cut(self, text: str, tokens: int) -> str | None:
        for number, piece in enumerate(_PIECE.finditer(text), start=1):
            if number == tokens:
                return text[: piece.end()]
        return None


class TokenizerCounter:
    """Counts with a tokenizer.json."""

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer

        self._tokenizer: Any = Tokenizer.from_file(str(path))
        # A model's file may cut and pad; both would make every text look alike.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.special: int = self._tokenizer.num_special_tokens_to_add(False)
        self.unit = f"counted by the model's {path.name}"

    def count(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def cut(self, text: str, tokens: int) -> str | None:
        offsets = self._tokenizer.encode(text, add_special_tokens=False).offsets
        return None if len(offsets) < tokens else text[: offsets[tokens - 1][1]]


def counter_for(tokenizer: Path | None) -> Counter:
    """The model's tokenizer where its file and the package are there, else an estimate."""
    if tokenizer is not None and tokenizer.is_file():
        try:
            return TokenizerCounter(tokenizer)
        except ImportError:
            return WordCounter()
        except Exception as error:  # tokenizers raises plain Exception for a file that it cannot read
            raise BadInput(
                f"{tokenizer} is not a readable tokenizer: {error}",
                hint="leave --text-tokens out, or mend the model's files",
            ) from error
    return WordCounter()


def fitted(texts: Iterator[str], lengths: Lengths, counter: Counter, chance: Random) -> Iterator[str]:
    """Texts of drawn lengths, made by joining and cutting `texts` (endless) in their order."""
    while True:
        wanted = max(1, lengths.draw(chance) - counter.special)
        parts: list[str] = []
        have = 0
        while have < wanted:
            text = next(texts)
            parts.append(text)
            have += counter.count(text)
            if len(parts) > wanted + MOST_EMPTY:
                raise BadInput("the corpus holds no tokens", hint="give --corpus a file with words in it")
        joined = " ".join(parts)
        while (cut := counter.cut(joined, wanted)) is None:
            joined = f"{joined} {next(texts)}"  # tokens at a seam may merge: more text makes up for them
        yield cut
