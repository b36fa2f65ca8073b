"""The header of a safetensors file: names, types and shapes of its tensors, without reading the weights.

Format: 8 bytes little-endian length, then that many bytes of JSON (safetensors' format description).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from deploytool.errors import BadInput

MAX_HEADER = 100_000_000  # bytes; the format's own limit
FLOATS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
INDEX = "model.safetensors.index.json"


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that hold a folder's weights: those of the index, the one file, or all.

    A file that the index names is returned whether or not it exists.
    """
    index = folder / INDEX
    if index.is_file():
        try:
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise BadInput(
                f"{index} cannot be read: {error}", hint="download the model's files again"
            ) from error
        return sorted(folder / str(name) for name in names)
    single = folder / "model.safetensors"
    return [single] if single.exists() or single.is_symlink() else sorted(folder.glob("*.safetensors"))


def read_header(path: Path) -> dict[str, dict[str, Any]]:
    """Tensor name -> {"dtype", "shape", "data_offsets"}. Raises BadInput for a broken or cut-off file."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or not 2 <= length <= min(MAX_HEADER, size - 8):
                raise ValueError("not a safetensors file, or cut off")
            header = parse_header(file.read(length))
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        if end > size - 8 - length:
            raise ValueError(f"cut off: {size:,} bytes of {end + 8 + length:,}")
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise BadInput(f"{path} cannot be read: {error}", hint="download the model's files again") from error
    return header


def parse_header(content: bytes) -> dict[str, dict[str, Any]]:
    """The JSON of a header. Raises ValueError where it is none."""
    header = json.loads(content)
    if not isinstance(header, dict):
        raise ValueError("not a safetensors file")
    header.pop("__metadata__", None)
    return header


def parameters(paths: Iterable[Path]) -> tuple[int | None, str | None]:
    """See `counted`, of files."""
    return counted(map(read_header, paths))


def counted(headers: Iterable[Mapping[str, Mapping[str, Any]]]) -> tuple[int | None, str | None]:
    """How many parameters files with these headers hold, and the type of most of them ("float32", ...).

    (None, None) for quantised weights, whose values are packed: their number says nothing.
    """
    counts: Counter[str] = Counter()
    for header in headers:
        for name, entry in header.items():
            if not name.endswith("position_ids"):
                counts[str(entry.get("dtype"))] += math.prod(entry.get("shape") or [1])
    if not counts or set(counts) - set(FLOATS):
        return None, None
    return sum(counts.values()), FLOATS[counts.most_common(1)[0][0]]
