"""The golden file: JSON with vectors as base64 of little-endian float32.

It holds its texts as they are sent, prompts included, so that it stays right when this tool's texts change.
`wrong` holds vectors of the same texts made wrongly on purpose: a server whose vectors are near to those is
told what it does wrong.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from deploytool.models import ModelCard, Pooling
from deploytool.schema import Document


def pack(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")


def unpack(text: str) -> tuple[float, ...]:
    """The float32 numbers; ValueError where it holds none, or a part of one."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("expected base64") from error
    if not raw or len(raw) % 4:
        raise ValueError(f"expected float32 numbers, got {len(raw)} bytes")
    return struct.unpack(f"<{len(raw) // 4}f", raw)


def _checked(text: str) -> str:
    unpack(text)
    return text


def digest(text: str) -> str:
    """SHA-256 of a prompt: a changed prompt makes golden vectors stale."""
    return hashlib.sha256(text.encode()).hexdigest()


Packed = Annotated[str, AfterValidator(_checked)]


class Weights(Document):
    """One file of weights. `sample` is a digest of its size and of pieces of it: quick to compare."""

    file: str
    bytes: int = Field(gt=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    sample: str = Field(pattern=r"^[0-9a-f]{64}$")


class Text(Document):
    """A text as it is sent, its length in tokens (special ones included), and its right vector."""

    name: str
    kind: Literal["query", "document"]
    sent: str
    tokens: int = Field(gt=0)
    vector: Packed


class Wrong(Document):
    """The vector that `text` gets where `cause` is at work: "pooling:cls", "prompt:missing", "cut:128"."""

    cause: str
    text: str
    vector: Packed


class Golden(Document):
    """Reference vectors of one model. `normalized`: they have length 1."""

    format: Literal["deploytool-golden/1"] = "deploytool-golden/1"
    probe_set: int
    model: str
    hub_id: str | None = None
    revision: str | None = None
    weights: tuple[Weights, ...] = Field(min_length=1)
    libraries: dict[str, str]
    made_at: str
    dtype: Literal["float32"] = "float32"
    pooling: Pooling | None
    normalized: bool
    dimensions: int = Field(gt=0)
    max_tokens: int | None = Field(default=None, gt=0, description="texts are not longer than this")
    default_prompt: str = Field(default="", description="what the model itself puts before every text")
    prompts: dict[str, str] = Field(description="query, document -> SHA-256 of the card's prompt")
    texts: tuple[Text, ...] = Field(min_length=3)
    wrong: tuple[Wrong, ...] = ()

    @model_validator(mode="after")
    def _fits_together(self) -> Golden:
        names = {text.name for text in self.texts}
        if len(names) < len(self.texts):
            raise ValueError("texts: a name is there twice")
        if any(wrong.text not in names for wrong in self.wrong):
            raise ValueError("wrong: a text is named that is not among texts")
        packed = [text.vector for text in self.texts] + [wrong.vector for wrong in self.wrong]
        widths = {len(unpack(vector)) for vector in packed}
        if widths != {self.dimensions}:
            raise ValueError(f"vectors have {sorted(widths)} numbers, dimensions says {self.dimensions}")
        return self

    def vectors(self) -> dict[str, tuple[float, ...]]:
        """Text name -> its right vector."""
        return {text.name: unpack(text.vector) for text in self.texts}

    def wrongs(self) -> dict[str, dict[str, tuple[float, ...]]]:
        """Cause -> text name -> the vector that it would get."""
        found: dict[str, dict[str, tuple[float, ...]]] = {}
        for wrong in self.wrong:
            found.setdefault(wrong.cause, {})[wrong.text] = unpack(wrong.vector)
        return found


def prompts_of(card: ModelCard) -> dict[str, str]:
    """The card's prompts as they stand before a text: `{task}` filled in, what follows `{query}` dropped."""
    task = card.prompts.task or ""
    return {
        kind: getattr(card.prompts, kind).replace("{task}", task).split("{query}")[0]
        for kind in ("query", "document")
    }
