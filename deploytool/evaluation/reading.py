"""How much of a text a server reads, and which texts are longer: by its tokenizer, or by what it counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from deploytool.endpoint import Client, EndpointError
from deploytool.errors import DeploytoolError
from deploytool.evaluation.systems import Served
from deploytool.model_files import locate

ALONE_AT_MOST = 2000
SPECIAL_TOKENS = 4
AT_ONCE = 1000


class Tokenizer(Protocol):
    """A model's own tokenizer."""

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, special ones included."""

    def beginning(self, text: str, limit: int) -> str:
        """The longest beginning of a text that has no more than `limit` tokens."""


@dataclass(frozen=True)
class Reading:
    """`limit`: tokens that are read of a text. `tokenizer`: the model's, where it is at hand."""

    limit: int | None
    tokenizer: Tokenizer | None
    how: str

    def cut(self, texts: Sequence[str]) -> list[bool | None]:
        """Whether each text is longer than what is read of it; None where only the server can tell."""
        if self.limit is None:
            return [None] * len(texts)
        limit = self.limit
        short = [len(text.encode("utf-8", "replace")) + SPECIAL_TOKENS <= limit for text in texts]
        if self.tokenizer is None:
            return [False if fits else None for fits in short]
        long = [text for text, fits in zip(texts, short, strict=True) if not fits]
        counts = iter(self.tokenizer.count(long) if long else [])
        return [False if fits else next(counts) > limit for fits in short]


def reading_of(system: Served, client: Client) -> Reading:
    """What is known of a system before it is asked to embed anything."""
    limit, whose = _limit(system, client)
    if limit is None:
        return Reading(None, None, "how much of a text the server reads is not known")
    tokenizer = _tokenizer(system)
    if tokenizer is not None:
        return Reading(limit, tokenizer, f"by the model's tokenizer; {whose} reads {limit} tokens")
    return Reading(limit, None, f"by the tokens that the server counts; {whose} reads {limit} tokens")


def shortened(system: Served, reading: Reading) -> str | None:
    """A sentence where the server reads less than the model can."""
    most = system.card.max_tokens if system.card else None
    if reading.limit is None or most is None or reading.limit >= most:
        return None
    return f"the server reads {reading.limit} tokens of a text, the model {most}: longer texts lose their end"


def _limit(system: Served, client: Client) -> tuple[int | None, str]:
    if system.resolved.max_length is not None:
        return system.resolved.max_length, "the server"
    listed = None if system.api is not None else _listed_limit(system, client)
    if listed is not None:
        return listed, "the server"
    return (system.card.max_tokens if system.card else None), "the model"


def _listed_limit(system: Served, client: Client) -> int | None:
    """`max_model_len` of /v1/models, as SGLang, vLLM and the server of this tool give it."""
    try:
        document = client.request("GET", "/v1/models").json()
    except EndpointError:
        return None
    rows = document.get("data") if isinstance(document, dict) else None
    for row in rows if isinstance(rows, list) else ():
        length = row.get("max_model_len") if isinstance(row, dict) else None
        named = isinstance(row, dict) and row.get("id") == system.resolved.model
        if named and isinstance(length, int) and not isinstance(length, bool) and length > 0:
            return length
    return None


def _tokenizer(system: Served) -> Tokenizer | None:
    folder = _folder(system)
    file = folder / "tokenizer.json" if folder else None
    if file is None or not file.is_file():
        return None
    try:
        import tokenizers
    except ImportError:
        return None
    found = tokenizers.Tokenizer.from_file(str(file))
    found.no_truncation()
    found.no_padding()
    return LocalTokenizer(found)


class LocalTokenizer:
    """Around the `tokenizers` package's own."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def count(self, texts: Sequence[str]) -> list[int]:
        lengths: list[int] = []
        for start in range(0, len(texts), AT_ONCE):
            found = self._tokenizer.encode_batch(texts[start : start + AT_ONCE])
            lengths += [len(one.ids) for one in found]
        return lengths

    def beginning(self, text: str, limit: int) -> str:
        encoding = self._tokenizer.encode(text)
        special = encoding.special_tokens_mask
        ends = [end for (_, end), mark in zip(encoding.offsets, special, strict=True) if not mark]
        for kept in range(limit - sum(special), 0, -1):
            part = text[: ends[kept - 1]] if kept <= len(ends) else text
            if len(self._tokenizer.encode(part).ids) <= limit:  # a word cut in two may have more pieces
                return part
        return ""


def _folder(system: Served) -> Path | None:
    deployment = system.resolved.deployment
    if deployment is not None and Path(deployment.launch.model_path).is_dir():
        return Path(deployment.launch.model_path)
    if system.card is None or system.api is not None:
        return None
    try:
        found = locate(system.card, verify=False)
    except DeploytoolError:
        return None
    return Path(found.path) if found.path else None
