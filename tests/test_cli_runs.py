"""`runs` and `report` as a person uses them: real commands on a real store, and the errors one can meet."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from example_runs import GRID, card_run, cpu_run, empty_run, hostile_run, large_run, memory_rows, request_rows

from deploytool import samples
from deploytool.identity import ProcessIdentity
from deploytool.records import RunRecord
from deploytool.reports import csv, markdown
from deploytool.store import Store

CommandLine = Callable[..., "subprocess.CompletedProcess[str]"]
CPU, CARD, EMPTY = "20260203-101100-7f3a", "20260203-113000-c0de", "20260203-120000-dead"


@pytest.fixture
def runs(home: Path) -> Path:
    """A store with three runs, of which the first has its samples; returns their folder."""
    with Store() as store:
        for record, started in ((cpu_run(), "10:11"), (card_run(), "11:30"), (empty_run(), "12:00")):
            record.started_at = f"2026-02-03T{started}:00+00:00"
            store.add_run(record)
        folder = store.run_folder(CPU)
    samples.write(folder / "samples.parquet", samples.REQUESTS, request_rows(GRID))
    samples.write(folder / "memory.parquet", samples.MEMORY, memory_rows(GRID))
    return folder.parent


def test_no_runs_is_no_error(cli: CommandLine) -> None:
    answer = cli("runs", "list")
    assert (answer.returncode, answer.stdout) == (0, "")
    assert "deploytool load TARGET" in answer.stderr
    assert json.loads(cli("runs", "list", "--json").stdout) == []
    assert cli("runs", "show").returncode == 2


def test_runs_are_listed_newest_first(cli: CommandLine, runs: Path) -> None:
    lines = cli("runs", "list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["run", EMPTY, CARD, CPU]
    assert lines[2].split()[-4:] == ["7/9", "interrupted", "799", "1,244"]
    assert lines[1].split()[-4:] == ["0/9", "failed", "-", "0"]
    listed = json.loads(cli("runs", "list", "--json").stdout)
    assert [run["id"] for run in listed] == [EMPTY, CARD, CPU]
    assert (listed[2]["cells_done"], listed[2]["cells_asked"], listed[2]["errors"]) == (9, 9, 0)
    assert listed[2]["best_qps"] == pytest.approx(799.4)
    assert listed[0]["best_qps"] is None


def test_a_run_is_shown_by_a_beginning_of_its_id(cli: CommandLine, runs: Path) -> None:
    answer = cli("runs", "show", "20260203-10")
    assert answer.returncode == 0
    assert "9 cells, 0 errors, peak 799 QPS at b1 c4" in answer.stdout
    assert "AMD EPYC 9554" in answer.stdout
    assert "load b32 c16" in answer.stdout
    assert str(runs / CPU / "samples.parquet") in answer.stdout
    narrow = cli("runs", "show", CARD, env={"COLUMNS": "80"})
    assert "the terminal is 80 columns wide" in narrow.stdout
    assert "raw samples: none are kept" in narrow.stdout
    shown = json.loads(cli("runs", "show", CPU, "--json").stdout)
    assert RunRecord.model_validate(shown) == RunRecord.model_validate(cpu_run().model_dump())


def test_latest_is_the_newest(cli: CommandLine, runs: Path) -> None:
    assert f"run {EMPTY}" in cli("runs", "show", "latest").stdout


def test_an_unknown_run_gets_the_nearest(cli: CommandLine, runs: Path) -> None:
    for verb in (["runs", "show"], ["runs", "export"], ["report"]):
        answer = cli(*verb, "20260203-101100-7f3b")
        assert answer.returncode == 2
        assert f"did you mean {CPU}" in answer.stderr
        assert answer.stdout == ""
    several = cli("runs", "show", "2026", "--json")
    assert several.returncode == 2
    assert json.loads(several.stdout)["error"]["code"] == "unknown_name"
    assert "several begin so" in several.stderr


def test_a_run_whose_tool_was_killed_is_interrupted(cli: CommandLine, home: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    record = cpu_run([(1, 1), (1, 4)]).model_copy(
        update={
            "state": "running",
            "owner": ProcessIdentity(pid=gone.pid, started_at=1.0),
            "finished_at": None,
        }
    )
    record.request["concurrency"] = [1, 4, 16]
    with Store() as store:
        store.add_run(record)
    assert cli("runs", "list").stdout.splitlines()[1].split()[-4:-2] == ["2/3", "interrupted"]
    shown = cli("runs", "show").stdout
    assert "2 of 3 cells (interrupted)" in shown
    assert "the tool that measured was killed" in shown


def test_a_broken_record_is_a_clear_error(cli: CommandLine, runs: Path, home: Path) -> None:
    state = next(home.rglob("state.sqlite"))
    with sqlite3.connect(state) as database:
        database.execute("UPDATE runs SET document = ? WHERE id = ?", ('{"id": "x", "cells": 5}', CPU))
    database.close()
    answer = cli("runs", "show", CPU)
    assert answer.returncode == 8
    assert "RunRecord" in answer.stderr
    assert "cannot be read" in answer.stderr
    assert "Traceback" not in answer.stderr
    for listing in (cli("runs", "list"), cli("runs", "list", "--json")):
        assert listing.returncode == 0
        assert f"warning: run {CPU} is left out: a stored RunRecord cannot be read" in listing.stderr
        assert CARD in listing.stdout and EMPTY in listing.stdout and CPU not in listing.stdout


def test_exports_are_the_reports(cli: CommandLine, runs: Path, tmp_path: Path) -> None:
    exported = json.loads(cli("runs", "export", CPU).stdout)
    assert RunRecord.model_validate(exported).cells == RunRecord.model_validate(cpu_run().model_dump()).cells
    path = tmp_path / "run.csv"
    assert cli("runs", "export", CPU, "--format", "csv", "-o", str(path)).returncode == 0
    with Store() as store:
        record = store.run(CPU)
    assert path.read_bytes().decode() == csv.render(record)
    assert cli("runs", "export", CPU, "--format", "markdown").stdout == markdown.render(record)
    assert cli("runs", "export", CPU, "--format", "markdown", "-o", "-").stdout == markdown.render(record)
    assert oct(path.stat().st_mode)[-3:] in ("644", "664", "600")
    wrong = cli("runs", "export", CPU, "--format", "xml")
    assert wrong.returncode == 2
    assert "markdown" in wrong.stderr


def test_raw_samples_are_exported_whole(cli: CommandLine, runs: Path, tmp_path: Path) -> None:
    path = tmp_path / "raw.parquet"
    answer = cli("runs", "export", CPU, "--format", "parquet", "-o", str(path))
    assert answer.returncode == 0
    assert path.read_bytes() == (runs / CPU / "samples.parquet").read_bytes()
    assert len(samples.read(path)) == len(list(request_rows(GRID)))
    unsaid = cli("runs", "export", CPU, "--format", "parquet")
    assert unsaid.returncode == 2
    assert "-o samples.parquet" in unsaid.stderr
    missing = cli("runs", "export", CARD, "--format", "parquet", "-o", str(path))
    assert missing.returncode == 8
    assert "no raw samples" in missing.stderr
    (runs / CPU / "samples.parquet").write_bytes(b"PAR1 nothing PAR1")
    broken = cli("runs", "export", CPU, "--format", "parquet", "-o", str(tmp_path / "other.parquet"))
    assert broken.returncode == 2
    assert "not a readable Parquet file" in broken.stderr
    assert not (tmp_path / "other.parquet").exists()


def test_a_report_is_one_file(cli: CommandLine, runs: Path, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    answer = cli("report", CPU, "-o", str(path))
    assert answer.returncode == 0
    assert "9 cells, 0 errors, peak 799 QPS at b1 c4" in answer.stdout
    assert answer.stderr == ""
    page = path.read_text(encoding="utf-8")
    assert page.count("<svg") == 6
    assert "as many as the table counts" in page
    assert cli("report", CPU, "-o", "-").stdout == page
    assert cli("report", CPU, cwd=tmp_path).returncode == 0
    assert (tmp_path / f"report-{CPU}.html").read_text(encoding="utf-8") == page
    assert sorted(item.name for item in tmp_path.iterdir()) == [f"report-{CPU}.html", "report.html"]


def test_a_report_says_what_samples_it_lacks(cli: CommandLine, runs: Path, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    answer = cli("report", CARD, "-o", str(path))
    assert answer.returncode == 0
    assert "samples.parquet is not there" in answer.stderr
    assert "No raw samples of requests are kept" in path.read_text(encoding="utf-8")
    whole = (runs / CPU / "samples.parquet").read_bytes()
    (runs / CPU / "samples.parquet").write_bytes(whole[: len(whole) // 2])
    answer = cli("report", CPU, "-o", str(path))
    assert answer.returncode == 0
    assert "warning: 1 problem in" in answer.stderr
    page = path.read_text(encoding="utf-8")
    assert "not a readable Parquet file" in page
    assert "RSS of the server" in page


def test_a_report_without_pyarrow_still_has_the_record(runs: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from deploytool.cli.main import run\n"
        f"sys.exit(run(['report', '{CPU}', '-o', 'report.html']))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert "pyarrow" in answer.stderr
    assert "P50 latency" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_file_that_cannot_be_written_is_said(cli: CommandLine, runs: Path, tmp_path: Path) -> None:
    export, report = ["runs", "export", CPU], ["report", CPU]
    for verb, target, words in (
        (report, tmp_path / "none" / "x.html", f"mkdir -p {tmp_path / 'none'}"),
        (export, tmp_path, "it is a folder"),
        (export, Path("/dev/full"), "No space left on device"),
        (report, Path("/proc/x.html"), "cannot write /proc/x.html"),
        (export, tmp_path / ("x" * 300), "too long"),
    ):
        answer = cli(*verb, "-o", str(target))
        assert answer.returncode == 2, target
        assert words in answer.stderr
        assert "Traceback" not in answer.stderr
    assert list(tmp_path.iterdir()) == []
    assert cli(*export, "-o", "/dev/null").returncode == 0


def test_a_full_disk_leaves_the_earlier_file(runs: Path, tmp_path: Path) -> None:
    with Store() as store:
        store.add_run(large_run().model_copy(update={"id": "20260203-130000-1a26"}))
    path = tmp_path / "run.json"
    path.write_text("earlier", encoding="utf-8")
    code = (
        "import resource, sys\n"
        "from deploytool.cli.main import run\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"
        f"sys.exit(run(['runs', 'export', '20260203-13', '-o', {str(path)!r}]))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert answer.returncode == 2, answer.stderr
    assert f"cannot write {path}: File too large" in answer.stderr
    assert path.read_text(encoding="utf-8") == "earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_is_followed_and_a_mode_is_kept(cli: CommandLine, runs: Path, tmp_path: Path) -> None:
    real, link = tmp_path / "real.html", tmp_path / "link.html"
    real.write_text("earlier", encoding="utf-8")
    real.chmod(0o640)
    link.symlink_to(real)
    assert cli("report", CPU, "-o", str(link)).returncode == 0
    assert link.is_symlink()
    assert real.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert oct(real.stat().st_mode)[-3:] == "640"


def test_a_reader_that_stops_early_is_no_error(runs: Path) -> None:
    with Store() as store:
        store.add_run(large_run().model_copy(update={"id": "20260203-130000-1a26"}))
    command = f"{sys.executable} -m deploytool runs export 20260203-13 | head -c 10"
    answer = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, check=False)
    assert (answer.returncode, answer.stderr, len(answer.stdout)) == (0, b"", 10)


def test_what_others_wrote_does_not_steer_the_terminal(cli: CommandLine, home: Path) -> None:
    with Store() as store:
        store.add_run(hostile_run().model_copy(update={"id": "evil"}))
    for words in (["list"], ["show"], ["export", "--format", "markdown"]):
        answer = cli("runs", *words)
        assert answer.returncode == 0
        assert "alert(1)" in answer.stdout
        assert "\x1b" not in answer.stdout
        assert "\u202e" not in answer.stdout
