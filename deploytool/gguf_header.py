"""The header of a GGUF file: what it says of the model, and how many parameters it holds.

Format: "GGUF", version 2 or 3 (uint32), number of tensors and of entries (uint64), the entries (key, type,
value), then each tensor's name, sizes, type and offset; little-endian (ggml-org/ggml, docs/gguf.md). Of an
array only its length is kept. No weight is read.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from deploytool.errors import BadInput

NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
MOST_BYTES = 64 * 1024 * 1024  # of one text
MOST_ITEMS = 100_000_000


class GgufHeader(NamedTuple):
    """`facts`: key -> value, an array as its length. `parameters`: values in all tensors."""

    facts: dict[str, Any]
    parameters: int


def read_header(path: Path) -> GgufHeader:
    """Raises BadInput for a file that is none, or is cut off in its header."""
    try:
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise ValueError("not a GGUF file")
            (version,) = _read(file, "I")
            if version not in (2, 3):
                raise ValueError(f"GGUF version {version}: 2 and 3 are read")
            tensors, entries = _read(file, "QQ")
            if max(tensors, entries) > MOST_ITEMS:
                raise ValueError("its header is not plausible")
            facts = dict(_entry(file) for _ in range(entries))
            return GgufHeader(facts, sum(_tensor(file) for _ in range(tensors)))
    except (OSError, ValueError, struct.error, UnicodeDecodeError) as error:
        raise BadInput(
            f"{path} cannot be used: {error}",
            hint="take a GGUF file of an embedding model, or download it again",
        ) from error


def _read(file: BinaryIO, kind: str) -> tuple[Any, ...]:
    packed = struct.Struct("<" + kind)
    return packed.unpack(file.read(packed.size))


def _text(file: BinaryIO) -> str:
    (length,) = _read(file, "Q")
    if length > MOST_BYTES:
        raise ValueError("its header is not plausible")
    data = file.read(length)
    if len(data) < length:
        raise ValueError("it is cut off")
    return data.decode("utf-8", "replace")


def _entry(file: BinaryIO) -> tuple[str, Any]:
    key = _text(file)
    (kind,) = _read(file, "I")
    return key, _value(file, kind)


def _value(file: BinaryIO, kind: int) -> Any:
    if kind in NUMBERS:
        return _read(file, NUMBERS[kind])[0]
    if kind == STRING:
        return _text(file)
    if kind != ARRAY:
        raise ValueError(f"a value of the unknown type {kind}")
    inner, length = _read(file, "IQ")
    if length > MOST_ITEMS:
        raise ValueError("its header is not plausible")
    if inner in NUMBERS:
        file.seek(length * struct.calcsize("<" + NUMBERS[inner]), 1)
    else:
        for _ in range(length):
            _value(file, inner)
    return length


def _tensor(file: BinaryIO) -> int:
    _text(file)
    (dimensions,) = _read(file, "I")
    if dimensions > 8:
        raise ValueError("its header is not plausible")
    sizes = _read(file, f"{dimensions}Q")
    _read(file, "IQ")
    return math.prod(sizes)
