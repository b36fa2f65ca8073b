"""Nested documents as lines of names and values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def flattened(value: Any, name: str = "") -> list[tuple[str, str]]:
    """A nested document as (dotted name, text) pairs; unknown is "unknown", an empty list "none"."""
    if isinstance(value, Mapping) and value:
        return [
            pair
            for key, inner in value.items()
            for pair in flattened(inner, f"{name}.{key}" if name else str(key))
        ]
    if isinstance(value, (list, tuple)) and value:
        if all(not isinstance(inner, (Mapping, list, tuple)) for inner in value):
            return [(name, ", ".join(str(inner) for inner in value))]
        return [pair for index, inner in enumerate(value) for pair in flattened(inner, f"{name}[{index}]")]
    if value is None:
        return [(name, "unknown")]
    if isinstance(value, (Mapping, list, tuple)):
        return [(name, "none")] if name else []
    return [(name, ("yes" if value else "no") if isinstance(value, bool) else str(value))]
