"""Raw samples as Parquet: the one place that reads and writes it (extra `load`).

requests: one row per request event. memory: one row per sampler reading and device.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deploytool.errors import missing_extra

# name -> Parquet type. Times are nanoseconds of one monotonic clock per machine (CLOCK_MONOTONIC).
REQUESTS: dict[str, str] = {
    "cell": "string",
    "phase": "string",  # warmup | measure
    "worker": "string",
    "start_ns": "int64",
    "latency_ns": "int64",
    "status": "int32",  # HTTP status, 0 where there was none
    "error": "string",  # null: success; else the class
    "texts": "int32",
    "tokens": "int64",  # usage of the answer where it was read, else null
    "response_bytes": "int64",
}
MEMORY: dict[str, str] = {
    "time_ns": "int64",
    "phase": "string",
    "device": "int32",  # null: no card, process memory only
    "vram_used_mib": "double",
    "vram_process_mib": "double",
    "utilisation_percent": "double",
    "power_w": "double",
    "rss_mib": "double",
}


def write(path: Path, schema: Mapping[str, str], rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows as one Parquet file, atomically; returns how many there were. Missing keys are null."""
    arrow, parquet = _arrow()
    collected = list(rows)
    columns = {name: [row.get(name) for row in collected] for name in schema}
    kinds = {name: getattr(arrow, kind if kind != "double" else "float64")() for name, kind in schema.items()}
    table = arrow.table(
        {name: arrow.array(values, type=kinds[name]) for name, values in columns.items()},
        schema=arrow.schema(list(kinds.items())),
    )
    partial = path.with_name(path.name + ".part")
    parquet.write_table(table, partial, compression="zstd")
    partial.replace(path)
    return len(collected)


def read(path: Path, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """All rows of a Parquet file as dictionaries."""
    _, parquet = _arrow()
    rows: list[dict[str, Any]] = parquet.read_table(path, columns=columns).to_pylist()
    return rows


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as error:
        raise missing_extra("pyarrow", "load", "reading and writing raw samples") from error
    return arrow, parquet
