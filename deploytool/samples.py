"""Raw samples as Parquet: the one place that reads and writes it (extra `load`).

requests: one row per request event. memory: one row per sampler reading and device. Files are written row
group by row group and appear whole or not at all; a broken one is refused by name, never half-read.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from deploytool.errors import InvalidFile, NotAvailable, Problem, missing_extra

# name -> Parquet type. Times are nanoseconds of one monotonic clock per machine (CLOCK_MONOTONIC).
REQUESTS: dict[str, str] = {
    "cell": "string",
    "phase": "string",  # warmup | measure | after (started when the window was over)
    "worker": "string",
    "start_ns": "int64",
    "latency_ns": "int64",  # from start_ns; in an open loop start_ns is when the request was due
    "service_ns": "int64",  # open loop: from when it was sent; null in a closed one
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

ROW_GROUP = 65_536
_BROKEN_HINT = (
    "the file is damaged or was not written by deploytool; what the run record holds is still there"
)


def write(
    path: Path, schema: Mapping[str, str], rows: Iterable[Mapping[str, Any]], *, row_group: int = ROW_GROUP
) -> int:
    """Write rows as one Parquet file, atomically; returns how many there were. Missing keys are null.

    `rows` may be a generator: `row_group` rows are in memory at a time. Raises NotAvailable where the disk
    does not take it; an earlier file at `path` is then as it was.
    """
    arrow, _ = _arrow()
    kinds = _kinds(schema)
    source = iter(rows)

    def tables() -> Iterator[Any]:
        while chunk := list(itertools.islice(source, row_group)):
            columns = {
                name: arrow.array([row.get(name) for row in chunk], type=kind) for name, kind in kinds.items()
            }
            yield arrow.table(columns, schema=arrow.schema(list(kinds.items())))

    return _write_tables(path, schema, tables())


def concat(path: Path, parts: Iterable[Path], schema: Mapping[str, str]) -> int:
    """Write the rows of `parts`, in their order, as one file, atomically; returns how many there were.

    One row group is in memory at a time. Columns that a part lacks are null. `path` may be one of the parts.
    """
    arrow, _ = _arrow()
    kinds = _kinds(schema)

    def tables() -> Iterator[Any]:
        for part in parts:
            for batch in _batches(part, None):
                yield arrow.table(
                    {
                        name: batch.column(name).cast(kind)
                        if name in batch.schema.names
                        else arrow.nulls(batch.num_rows, kind)
                        for name, kind in kinds.items()
                    },
                    schema=arrow.schema(list(kinds.items())),
                )

    return _write_tables(path, schema, tables())


def read(path: Path, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """All rows of a Parquet file as dictionaries. Raises InvalidFile where it is damaged."""
    return list(stream(path, columns))


def stream(path: Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file one by one; one batch of them is in memory at a time."""
    for batch in _batches(path, columns):
        names = batch.schema.names
        for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            yield dict(zip(names, values, strict=True))


def count(path: Path) -> int:
    """How many rows a Parquet file has, from its footer."""
    with _opened(path) as file:
        rows: int = file.metadata.num_rows
        return rows


def _write_tables(path: Path, schema: Mapping[str, str], tables: Iterator[Any]) -> int:
    arrow, parquet = _arrow()
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    rows = 0
    try:
        with parquet.ParquetWriter(
            partial,
            arrow.schema(list(_kinds(schema).items())),
            compression="zstd",
            write_page_checksum=True,
        ) as out:
            for table in tables:
                out.write_table(table)
                rows += table.num_rows
        with partial.open("rb+") as written:
            os.fsync(written.fileno())
        partial.replace(path)
    except OSError as error:
        raise NotAvailable(
            f"cannot write {path}: {error.strerror or error}",
            hint="free space there or move the data folder with DEPLOYTOOL_HOME",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    return rows


def _batches(path: Path, columns: Sequence[str] | None) -> Iterator[Any]:
    arrow, _ = _arrow()
    with _opened(path) as file:
        names = set(file.schema_arrow.names)
        lacking = [name for name in columns or () if name not in names]
        if lacking:
            raise InvalidFile(
                [
                    Problem(path, None, name, f"no such column; there are {', '.join(sorted(names))}")
                    for name in lacking
                ],
                hint=_BROKEN_HINT,
            )
        batches = file.iter_batches(batch_size=ROW_GROUP, columns=list(columns) if columns else None)
        while True:
            try:
                batch = next(batches, None)
            except (arrow.ArrowException, OSError) as error:
                raise _broken(path, error) from error
            if batch is None:
                return
            yield batch


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    arrow, parquet = _arrow()
    try:
        file = parquet.ParquetFile(path, page_checksum_verification=True)
    except FileNotFoundError as error:
        raise InvalidFile([Problem(path, None, "", "there is no such file")]) from error
    except (arrow.ArrowException, OSError) as error:
        raise _broken(path, error) from error
    with file:
        yield file


def _broken(path: Path, error: Exception) -> InvalidFile:
    reason = " ".join(str(error).split()) or type(error).__name__
    return InvalidFile([Problem(path, None, "", f"not a readable Parquet file: {reason}")], hint=_BROKEN_HINT)


def _kinds(schema: Mapping[str, str]) -> dict[str, Any]:
    arrow, _ = _arrow()
    return {name: getattr(arrow, "float64" if kind == "double" else kind)() for name, kind in schema.items()}


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as error:
        raise missing_extra("pyarrow", "load", "reading and writing raw samples") from error
    return arrow, parquet
