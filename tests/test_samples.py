"""Parquet of raw samples: whole or not at all, streamed, and refused by name where it is damaged."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from example_runs import GRID, memory_rows, request_rows

from deploytool import samples
from deploytool.errors import InvalidFile

ROWS = list(request_rows([(8, 4)]))


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "memory.parquet"
    rows = list(memory_rows([(1, 1)], card=True))
    assert samples.write(path, samples.MEMORY, rows) == len(rows)
    assert samples.read(path) == rows
    assert samples.read(path)[0]["power_w"] is None


def test_a_missing_key_is_null_and_a_column_can_be_chosen(tmp_path: Path) -> None:
    path = tmp_path / "requests.parquet"
    samples.write(path, samples.REQUESTS, [{"cell": "b1 c1", "latency_ns": 5}])
    assert samples.read(path, ["latency_ns", "error"]) == [{"latency_ns": 5, "error": None}]


def test_no_rows_make_a_file_with_all_columns(tmp_path: Path) -> None:
    path = tmp_path / "requests.parquet"
    assert samples.write(path, samples.REQUESTS, []) == 0
    assert samples.read(path, list(samples.REQUESTS)) == []


def test_a_generator_is_written_group_by_group(tmp_path: Path) -> None:
    from pyarrow import parquet

    path = tmp_path / "requests.parquet"
    assert samples.write(path, samples.REQUESTS, iter(ROWS[:25]), row_group=10) == 25
    assert parquet.ParquetFile(path).num_row_groups == 3
    assert samples.read(path) == ROWS[:25]
    assert samples.count(path) == 25


def test_rows_that_fail_half_way_leave_the_earlier_file(tmp_path: Path) -> None:
    path = tmp_path / "requests.parquet"
    samples.write(path, samples.REQUESTS, ROWS[:3])

    def rows() -> Iterator[dict[str, Any]]:
        yield from ROWS
        raise RuntimeError("the load generator died")

    with pytest.raises(RuntimeError, match="died"):
        samples.write(path, samples.REQUESTS, rows(), row_group=10)
    assert samples.read(path) == ROWS[:3]
    assert list(tmp_path.iterdir()) == [path]


def test_parts_are_joined_in_order(tmp_path: Path) -> None:
    parts = []
    for batch, concurrency in GRID[:3]:
        part = tmp_path / f"b{batch}-c{concurrency}.parquet"
        samples.write(part, samples.REQUESTS, request_rows([(batch, concurrency)], seconds=0.2))
        parts.append(part)
    whole = tmp_path / "samples.parquet"
    written = samples.concat(whole, parts, samples.REQUESTS)
    rows = samples.read(whole)
    assert written == len(rows) == sum(samples.count(part) for part in parts) > 100
    assert list(dict.fromkeys(row["cell"] for row in rows)) == ["b1 c1", "b1 c4", "b1 c16"]


def test_a_part_may_lack_a_column_and_the_whole_may_be_a_part(tmp_path: Path) -> None:
    whole, old = tmp_path / "samples.parquet", tmp_path / "old.parquet"
    samples.write(whole, samples.REQUESTS, ROWS[:2])
    earlier = {name: kind for name, kind in samples.REQUESTS.items() if name != "tokens"}
    samples.write(old, earlier, ROWS[2:4])
    assert samples.concat(whole, [whole, old], samples.REQUESTS) == 4
    assert [row["tokens"] for row in samples.read(whole)] == [168, 168, None, None]


def test_a_damaged_part_is_named_and_the_whole_stays(tmp_path: Path) -> None:
    whole, good, bad = (tmp_path / f"{name}.parquet" for name in ("samples", "good", "bad"))
    samples.write(whole, samples.REQUESTS, ROWS[:2])
    samples.write(good, samples.REQUESTS, ROWS)
    bad.write_bytes(good.read_bytes()[:-20])
    with pytest.raises(InvalidFile, match=r"bad\.parquet"):
        samples.concat(whole, [good, bad], samples.REQUESTS)
    assert samples.count(whole) == 2
    assert sorted(tmp_path.iterdir()) == sorted([whole, good, bad])


def _flipped(data: bytes) -> bytes:
    changed = bytearray(data)
    changed[len(data) // 3] ^= 0x10
    return bytes(changed)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("empty", lambda _: b""),
        ("text", lambda _: b"cell,latency\nb1 c1,5\n"),
        ("cut", lambda data: data[: len(data) // 2]),
        ("one bit", _flipped),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, name: str, damage: Any) -> None:
    path = tmp_path / "samples.parquet"
    samples.write(path, samples.REQUESTS, ROWS)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InvalidFile) as caught:
        samples.read(path)
    assert "samples.parquet: not a readable Parquet file" in caught.value.details[0]
    assert caught.value.hint


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    path = tmp_path / "samples.parquet"
    with pytest.raises(InvalidFile) as caught:
        samples.count(path)
    assert "there is no such file" in caught.value.details[0]
    samples.write(path, samples.MEMORY, memory_rows([(1, 1)]))
    with pytest.raises(InvalidFile) as caught:
        samples.read(path, ["time_ns", "latency_ns"])
    assert "latency_ns: no such column" in caught.value.details[0]


FULL_DISK = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from example_runs import request_rows
from deploytool import samples
from deploytool.errors import NotAvailable
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    samples.write(Path(sys.argv[1]), samples.REQUESTS, request_rows([(1, 4), (1, 16)]), row_group=500)
except NotAvailable as error:
    print(error.message, "|", error.hint)
"""


def test_a_disk_that_takes_no_more_leaves_the_earlier_file(tmp_path: Path) -> None:
    path = tmp_path / "samples.parquet"
    samples.write(path, samples.REQUESTS, ROWS[:3])
    answer = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path), str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"cannot write {path}: " in answer.stdout
    assert "free space" in answer.stdout
    assert samples.read(path) == ROWS[:3]
    assert list(tmp_path.iterdir()) == [path]


def test_without_pyarrow_the_extra_is_named(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from pathlib import Path\n"
        "from deploytool import samples, errors\n"
        "try: samples.read(Path('x.parquet'))\n"
        "except errors.NotAvailable as error: print(error.message, '|', error.hint)\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pyarrow" in answer.stdout
    assert "deploytool[load]" in answer.stdout
