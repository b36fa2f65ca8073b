"""The work of a run:

which texts, in which bodies. Fixed before the first request, the same for the same seed.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from deploytool.loadgen import corpus, lengths

MOST_TEXTS = 8192
LEAST_TEXTS = 64
MOST_TOKENS = 500_000  # bounds the time to make texts of a drawn length
MOST_BODIES = 1024
LEAST_BODIES = 32


@dataclass(frozen=True)
class Work:
    """Texts and how they are put into requests.

    `manifest` names the work: the texts, their order, the batches and the encoding, whatever model gets them.
    `unit` says what a token of --text-tokens was; None: texts as they come.
    """

    texts: tuple[str, ...]
    encoding: str
    seed: int
    source: str
    unit: str | None
    manifest: str

    def batches(self, size: int) -> Iterator[list[str]]:
        """The texts of every body of `size` texts. A pass over all texts is shuffled anew after the first."""
        bodies = max(LEAST_BODIES, min(MOST_BODIES, len(self.texts) // size))
        stream = self._passes(size)
        return (list(itertools.islice(stream, size)) for _ in range(bodies))

    def _passes(self, size: int) -> Iterator[str]:
        chance = Random(f"order {self.seed} {size}")  # noqa: S311 - reproducible on purpose
        texts = list(self.texts)
        while True:
            yield from texts
            chance.shuffle(texts)

    def write_bodies(self, path: Path, size: int, model: str) -> None:
        """One serialised request a line."""
        with path.open("wb") as out:
            for texts in self.batches(size):
                request = {"model": model, "input": texts, "encoding_format": self.encoding}
                out.write(json.dumps(request, ensure_ascii=False).encode("utf-8") + b"\n")


def prepare(
    *, file: Path | None, text_tokens: str | None, tokenizer: Path | None, encoding: str, seed: int,
    batches: Sequence[int],
) -> Work:  # fmt: skip
    """The work of a run. Raises BadInput and InvalidFile for a corpus or distribution that is none."""
    if file is None:
        source, endless, most = corpus.BUILT_IN, corpus.built_in(seed), MOST_TEXTS
    else:
        texts = corpus.from_file(file)
        source, endless, most = (
            str(file),
            itertools.cycle(_shuffled(texts, seed)),
            min(len(texts), MOST_TEXTS),
        )
    unit = None
    if text_tokens is not None:
        drawn = lengths.parse(text_tokens)
        counter = lengths.counter_for(tokenizer)
        unit = counter.unit
        endless = lengths.fitted(endless, drawn, counter, Random(f"lengths {seed}"))  # noqa: S311
        most = max(LEAST_TEXTS, min(MOST_TEXTS, int(MOST_TOKENS / drawn.mean)))
    chosen = tuple(itertools.islice(endless, most))
    manifest = _hash(chosen, sorted(set(batches)), encoding, seed)
    return Work(chosen, encoding, seed, source, unit, manifest)


def _shuffled(texts: list[str], seed: int) -> list[str]:
    shuffled = list(texts)
    Random(f"corpus {seed}").shuffle(shuffled)  # noqa: S311
    return shuffled


def _hash(texts: Iterable[str], batches: Sequence[int], encoding: str, seed: int) -> str:
    digest = hashlib.sha256(json.dumps([1, list(batches), encoding, seed]).encode())
    for text in texts:
        digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
    return f"sha256:{digest.hexdigest()}"
