"""Open loop, repeats, processes, calibration and checked answers, against servers that know the truth."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from measuring import TRIES, kept_its_bounds
from stand_ins import reference_c

from deploytool import samples
from deploytool.records import Cell, RunRecord

pytestmark = pytest.mark.alone

REFERENCE = Path(__file__).resolve().parent / "stand_ins" / "reference_server.py"
CommandLine = Callable[..., "subprocess.CompletedProcess[str]"]
Row = dict[str, Any]
StartC = Callable[..., reference_c.ReferenceC]

needs_c = pytest.mark.skipif(reference_c.compiled() is None, reason="needs a C compiler (gcc)")


@pytest.fixture
def server_c(tmp_path: Path) -> Iterator[StartC]:
    """Start reference servers in C; they end with the test."""
    started: list[reference_c.ReferenceC] = []

    def start(**options: Any) -> reference_c.ReferenceC:
        started.append(reference_c.start(tmp_path / f"record{len(started)}.csv", **options))
        return started[-1]

    yield start
    for server in started:
        server.end()


@pytest.fixture
def server_py() -> Iterator[Callable[..., str]]:
    """Start reference servers in Python, which know more kinds of answers; gives their URL."""
    started: list[subprocess.Popen[str]] = []

    def start(answers: str, *options: str) -> str:
        process = subprocess.Popen(
            [sys.executable, str(REFERENCE), "--answers", answers, *options],
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        return process.stdout.readline().strip()

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def loaded(cli: CommandLine, *args: str) -> tuple[RunRecord, list[Row]]:
    done = cli("load", *args, "--json")
    assert done.returncode == 0, done.stderr
    record = RunRecord.model_validate(json.loads(done.stdout))
    assert record.folder is not None
    return record, samples.read(Path(record.folder) / "samples.parquet")


def nearest_rank(values: list[float], percent: float) -> float:
    return sorted(values)[math.ceil(len(values) * percent / 100) - 1]


@needs_c
def test_an_open_loop_measures_a_stall_from_the_schedule(cli: CommandLine, server_c: StartC) -> None:
    """A server that stalls once, for a second, at 200 requests a second: 200 requests are due meanwhile."""
    assert kept_its_bounds(lambda: agrees(cli, server_c(script="5,stall:400:1000")))


def agrees(cli: CommandLine, server: reference_c.ReferenceC) -> bool:
    """Whether the figures of that stall are as near to the server's own as they are on a machine that is idle."""
    record, rows = loaded(
        cli, server.url, "--batch", "1", "--rate", "200", "--arrivals", "constant", "--duration", "4s",
        "--warmup", "200ms", "--in-flight", "400", "--no-calibration", "--checks", "0",
    )  # fmt: skip
    cell = record.cells[0]
    assert (cell.mode, cell.rate, cell.name, cell.dropped, cell.errors) == ("open", 200, "b1 r200", 0, {})
    due = sorted(int(row["start_ns"]) for row in rows)
    assert {later - earlier for earlier, later in pairwise(due)} == {5_000_000}
    # The truth: when each was due, and when the server had answered as many.
    answered = sorted(answered for _, answered in server.end()[1:])
    assert len(answered) == len(due)
    inside = {int(row["start_ns"]) for row in rows if row["phase"] == "measure"}
    truth = [(end - start) / 1e6 for start, end in zip(due, answered, strict=True) if start in inside]
    assert cell.requests == len(truth) >= 799
    is_near = True
    for percent, said in ((95, cell.latency_ms.p95), (99, cell.latency_ms.p99)):
        true = nearest_rank(truth, percent)
        assert true > 700
        assert said is not None and said >= true * 0.98
        is_near = is_near and said <= true * 1.02
    assert cell.latency_ms.p50 is not None
    assert cell.due_rate == pytest.approx(200, rel=0.01)
    low, high = cell.latency_ci95_ms["p99"]
    assert low <= nearest_rank(truth, 99) * 1.02
    assert high >= nearest_rank(truth, 99) * 0.98
    return is_near and cell.latency_ms.p50 < 300 and cell.sent_rate == cell.due_rate


def test_what_no_connection_is_free_for_is_dropped_and_counted(
    cli: CommandLine, server_py: Callable[..., str]
) -> None:
    """4 connections and 100 ms an answer carry 40 requests a second; 100 are due."""
    url = server_py("ok@100")
    record, rows = loaded(
        cli, url, "--batch", "1", "--rate", "100", "--duration", "2s", "--warmup", "500ms",
        "--in-flight", "4", "--no-calibration", "--checks", "0",
    )  # fmt: skip
    cell = record.cells[0]
    inside = [row for row in rows if row["phase"] == "measure"]
    assert cell.dropped == cell.errors["dropped"] == sum(row["error"] == "dropped" for row in inside) > 60
    assert cell.requests + cell.dropped == len(inside)
    assert cell.requests <= 90
    assert cell.validity is not None
    assert cell.validity.verdict == "void"
    assert any("dropped" in reason for reason in cell.validity.reasons)
    assert cell.latency_ms.p50 is not None
    assert cell.adjusted_ms["p50"] == "infinite"  # more than half were never answered
    # Poisson: gaps that differ, of the asked mean
    due = sorted(int(row["start_ns"]) for row in inside)
    gaps = [later - earlier for earlier, later in pairwise(due)]
    assert len(set(gaps)) > len(gaps) // 2
    assert sum(gaps) / len(gaps) == pytest.approx(10e6, rel=0.35)


def test_processes_share_a_cell_and_the_null_server_is_beside_it(
    cli: CommandLine, server_py: Callable[..., str]
) -> None:
    assert kept_its_bounds(lambda: shared_out(cli, server_py("ok@5")))


def shared_out(cli: CommandLine, url: str) -> bool:
    """Whether the client adds as little as it does on a machine that is idle."""
    record, rows = loaded(
        cli, url, "--batch", "1", "--concurrency", "3", "--processes", "2", "--duration", "1s", "--warmup",
        "200ms", "--repeats", "2",
    )  # fmt: skip
    cell = record.cells[0]
    assert {row["worker"] for row in rows} == {"0", "1"}
    assert cell.requests == sum(row["phase"] == "measure" for row in rows) > 50
    assert len(cell.client) == 2
    assert all(process.arrivals_told for process in cell.client) or sys.platform != "linux"
    assert cell.null is not None
    assert cell.null.clients == 3
    assert cell.null.ceiling_qps > cell.qps
    assert cell.null.added_ms is not None
    assert cell.null.added_ms > 0
    assert cell.answers is not None
    assert (cell.answers.answers, cell.answers.wrong, cell.answers.vectors) == (8, 0, 8)
    series = record.series
    assert series is not None
    assert (series["number"], series["of"]) == (2, 2)
    assert series["spread"][0]["cell"] == "b1 c3"
    assert series["spread"][0]["qps"]["min"] <= cell.qps <= series["spread"][0]["qps"]["max"]
    return cell.null.added_ms < 5


def test_wrong_answers_under_load_make_a_cell_void(cli: CommandLine, server_py: Callable[..., str]) -> None:
    """A server that answers other vectors every other time: a text's vector is not what it is alone."""
    url = server_py("ok@2*20,other@2*20", "--vectors", "1")
    record, _ = loaded(
        cli, url, "--batch", "1", "--concurrency", "2", "--duration", "1s", "--warmup", "0s",
        "--no-calibration", "--checks", "12",
    )  # fmt: skip
    cell = record.cells[0]
    assert cell.errors == {}
    assert cell.answers is not None
    assert cell.answers.wrong > 0
    assert "sent alone" in cell.answers.problems[0]
    assert cell.answers.other_encoding_reason == "asked for base64, the server answered float"
    assert cell.validity is not None
    assert cell.validity.verdict == "void"


def test_a_resumed_run_repeats_what_is_void(cli: CommandLine, server_py: Callable[..., str]) -> None:
    """100 ms an answer and one connection: 40 requests a second are dropped, 2 a second are not."""
    url = server_py("ok@100")
    asked = (url, "--batch", "1", "--duration", "1s", "--warmup", "0s", "--no-calibration", "--checks", "0")
    for _ in range(TRIES):  # on a busy machine the first may be void too
        record, rows = loaded(cli, *asked, "--rate", "2,40", "--in-flight", "1", "--arrivals", "constant")
        if record.cells[0].stands:
            break
    assert [cell.stands for cell in record.cells] == [True, False]
    done = cli("load", url, "--resume", record.id, "--json", "--no-calibration", "--checks", "0")
    assert done.returncode == 0, done.stderr
    assert "measured again, because void: b1 r40" in done.stderr
    again = RunRecord.model_validate(json.loads(done.stdout))
    assert again.folder is not None
    after = samples.read(Path(again.folder) / "samples.parquet")
    assert again.cells[0] == record.cells[0]
    assert [row for row in after if row["cell"] == "b1 r2"] == [row for row in rows if row["cell"] == "b1 r2"]
    starts = {name: {row["start_ns"] for row in these if row["cell"] == "b1 r40"} for name, these in
              (("before", rows), ("after", after))}  # fmt: skip
    assert starts["after"]
    assert not starts["before"] & starts["after"]
    assert sum(row["phase"] == "measure" and not row["error"] for row in after) == sum(
        cell.requests for cell in again.cells
    )


def test_a_scenario_is_a_set_of_options(cli: CommandLine, server_py: Callable[..., str]) -> None:
    url = server_py("ok@2")
    record, _ = loaded(
        cli, url, "--scenario", "spike", "--rate", "40", "--duration", "1s", "--warmup", "0s",
        "--no-calibration", "--checks", "0",
    )  # fmt: skip
    assert record.request["scenario"] == "spike"
    assert record.request["text_tokens"] == "lognormal:2.5,0.5"
    assert [cell.name for cell in record.cells] == ["b1 r40"]
    unknown = cli("load", url, "--scenario", "spyke")
    assert unknown.returncode == 2
    assert "spike" in unknown.stderr
    both = cli("load", url, "--rate", "5", "--concurrency", "2")
    assert both.returncode == 2
    assert "--in-flight" in both.stderr


def test_a_record_of_schema_1_is_read_as_it_is() -> None:
    cell = Cell.model_validate(
        {"batch": 1, "concurrency": 4, "requests": 200, "duration_s": 1.0, "qps": 200.0, "texts_per_s": 200.0,
         "latency_ms": {"p50": 1.0, "p99": 2.0}}
    )  # fmt: skip
    assert (cell.name, cell.latency_ms.p99, cell.validity, cell.latency_ci95_ms) == ("b1 c4", 2.0, None, {})
