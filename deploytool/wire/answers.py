"""The answers of OpenAI's embeddings API, read without trust. Pure.

Servers differ: OpenAI nests errors as `{"error": {"message", "type", "param", "code"}}`, SGLang 0.5.23 sends
them flat (`{"object": "error", "message", "code": 400}`) or as `{"error": "Unauthorized"}`, FastAPI as
`{"detail"}`. `error_message` reads them all.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from deploytool.wire.errors import NotJson, WrongShape

Encoding = Literal["float", "base64"]


@dataclass(frozen=True)
class Response:
    """One HTTP answer. `latency_ms` runs from sending to the last byte."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    latency_ms: float

    def json(self) -> Any:
        """The body as JSON; NotJson says how it begins."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            start = self.body[:80].decode("utf-8", "replace")
            raise NotJson(
                f"answered {self.status} with something that is not JSON ({len(self.body)} bytes: {start!r})",
                hint="is this the address of an OpenAI-compatible server? A proxy may have cut the answer",
                status=self.status,
            ) from error

    def error_message(self) -> str | None:
        """The server's own words on what went wrong, None where it gave none."""
        try:
            return error_message(self.json())
        except NotJson:
            kind = self.headers.get("content-type", "")
            text = self.body.decode("utf-8", "replace").strip()
            return text[:200] or None if kind.startswith("text/plain") else None


@dataclass(frozen=True)
class Embeddings:
    """One answer of /v1/embeddings.

    `vectors` stand in the order of the inputs (by data[].index); `indices` is data[].index as it came.
    A null component (some servers write NaN so) is NaN. `model`, `prompt_tokens` and `total_tokens` are None
    where the server did not say; Voyage's API says only the total, which is the same for embeddings.
    """

    vectors: list[list[float]] = field(repr=False)
    indices: list[int]
    model: str | None
    prompt_tokens: int | None
    total_tokens: int | None
    encoding: Encoding
    latency_ms: float

    @property
    def in_order(self) -> bool:
        """Whether data[] itself came in the order of the inputs, which clients that ignore index rely on."""
        return self.indices == list(range(len(self.indices)))


def parse_embeddings(document: Any, expected: int, latency_ms: float) -> Embeddings:
    """An answer's JSON as Embeddings; WrongShape says what of it is not as OpenAI's API has it."""
    if not isinstance(document, dict) or not isinstance(document.get("data"), list):
        reason = error_message(document)
        told = f": it holds an error, {reason!r}" if reason else ""
        raise WrongShape(f"answered 200 without a data list{told}", hint=_SHAPE_HINT, status=200)
    rows = document["data"]
    if len(rows) != expected:
        raise WrongShape(f"asked for {expected} vectors, got {len(rows)}", hint=_SHAPE_HINT, status=200)
    indices = [_index(row, position) for position, row in enumerate(rows)]
    if sorted(indices) != list(range(expected)):
        raise WrongShape(
            f"data[].index is {_short(indices)}, not each of 0..{expected - 1} once",
            hint="the server numbers its answers wrongly: nothing tells which vector belongs to which text",
            status=200,
        )
    decoded = [_vector(row, position) for position, row in enumerate(rows)]
    places = sorted(range(expected), key=indices.__getitem__)
    vectors = [decoded[place][0] for place in places]
    encoded: Encoding = "base64" if decoded and all(kind == "base64" for _, kind in decoded) else "float"
    usage = document.get("usage")
    total = _count(usage, "total_tokens")
    prompt = _count(usage, "prompt_tokens")
    model = document.get("model")
    return Embeddings(
        vectors=vectors,
        indices=indices,
        model=model if isinstance(model, str) else None,
        prompt_tokens=total if prompt is None else prompt,
        total_tokens=total,
        encoding=encoded,
        latency_ms=latency_ms,
    )


def parse_models(document: Any) -> list[str]:
    """The names of /v1/models; WrongShape where it is no such list."""
    rows = document.get("data") if isinstance(document, dict) else None
    if not isinstance(rows, list):
        raise WrongShape("/v1/models holds no data list", hint=_SHAPE_HINT, status=200)
    return [row["id"] for row in rows if isinstance(row, dict) and isinstance(row.get("id"), str)]


def error_message(document: Any) -> str | None:
    """The message of an error document, nested or flat; None where there is none."""
    if not isinstance(document, dict):
        return None
    nested = document.get("error")
    for candidate in (
        nested.get("message") if isinstance(nested, dict) else nested,
        document.get("message"),
        document.get("detail"),
    ):
        if isinstance(candidate, str) and candidate.strip():
            return candidate.strip()
        if isinstance(candidate, list) and candidate:
            return json.dumps(candidate, ensure_ascii=False)[:300]
    return None


def error_shape(document: Any) -> str:
    """How an error document is built, in words: OpenAI's nesting, SGLang's flat one, or neither."""
    if not isinstance(document, dict):
        return "no JSON object"
    if isinstance(document.get("error"), dict):
        return "OpenAI's shape"
    return "flat shape" if error_message(document) else "no message"


_SHAPE_HINT = "the server does not follow OpenAI's embeddings API; look at its log"


def _index(row: Any, position: int) -> int:
    index = row.get("index") if isinstance(row, dict) else None
    if not isinstance(index, int) or isinstance(index, bool):
        raise WrongShape(f"data[{position}].index is {index!r}, not a number", hint=_SHAPE_HINT, status=200)
    return index


def _vector(row: dict[str, Any], position: int) -> tuple[list[float], Encoding]:
    raw = row.get("embedding")
    if isinstance(raw, str):
        return _decoded(raw, position), "base64"
    if not isinstance(raw, list) or not raw:
        raise WrongShape(
            f"data[{position}].embedding is {_kind(raw)}, not a list of numbers", hint=_SHAPE_HINT, status=200
        )
    return [_number(value, position) for value in raw], "float"


def _number(value: Any, position: int) -> float:
    if isinstance(value, float):
        return value
    if value is None:
        return math.nan
    if not isinstance(value, int) or isinstance(value, bool):
        raise WrongShape(
            f"data[{position}].embedding holds {_kind(value)}, not only numbers",
            hint=_SHAPE_HINT,
            status=200,
        )
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _decoded(text: str, position: int) -> list[float]:
    """Little-endian float32, as OpenAI's API packs them."""
    try:
        packed = base64.b64decode(text, validate=True)
        if not packed:
            raise ValueError("it is empty")
        return list(struct.unpack(f"<{len(packed) // 4}f", packed))
    except (binascii.Error, struct.error, ValueError) as error:
        raise WrongShape(
            f"data[{position}].embedding is no base64 of float32: {error}", hint=_SHAPE_HINT, status=200
        ) from error


def _count(usage: Any, name: str) -> int | None:
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if isinstance(count, int) and not isinstance(count, bool) else None


def _kind(value: Any) -> str:
    if isinstance(value, list) and not value:
        return "an empty list"
    return "missing" if value is None else f"a {type(value).__name__}"


def _short(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:8]))
    return f"[{shown}{', ...' if len(numbers) > 8 else ''}]"
