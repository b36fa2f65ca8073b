"""`compare`: the same work, differences beyond noise or not, conditions; on made runs and on real servers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any
from xml.etree import ElementTree

import pytest
from example_runs import GRID, cells_of, cpu_run, request_rows
from measuring import TRIES

from deploytool import samples
from deploytool.comparison import compare, read_side
from deploytool.errors import BadInput
from deploytool.records import RunRecord, Validity
from deploytool.reports import comparison as report
from deploytool.store import Store
from deploytool.thresholds import parse_changes

REFERENCE = Path(__file__).resolve().parent / "stand_ins" / "reference_server.py"
CommandLine = Callable[..., "subprocess.CompletedProcess[str]"]
SMALL = [(1, 4), (8, 4)]


def keep(name: str, *, slower: float = 1.0, seed: int = 7, **fields: Any) -> RunRecord:
    """A stored run with raw samples; its server takes `slower` times as long."""
    rows = list(request_rows(SMALL, seconds=5.0 * slower, seed=seed))
    begin = {cell: min(row["start_ns"] for row in rows if row["cell"] == cell) for cell in ("b1 c4", "b8 c4")}
    for row in rows:
        row["latency_ns"] = int(row["latency_ns"] * slower)
        row["start_ns"] = begin[row["cell"]] + int((row["start_ns"] - begin[row["cell"]]) * slower)
    seconds = 5.0 * slower * slower
    record = cpu_run(SMALL).model_copy(update={"id": name, "cells": cells_of(rows, seconds), **fields})
    with Store() as store:
        store.add_run(record)
        samples.write(store.run_folder(name) / "samples.parquet", samples.REQUESTS, rows)
    return record


def compared(one: str, other: str, conditions: str = "", **options: Any) -> Any:
    with Store() as store:
        sides = read_side(store, one.split(",")), read_side(store, other.split(","))
    return compare(*sides, parse_changes(conditions) if conditions else (), **options)


def test_the_same_server_twice_is_no_change() -> None:
    keep("one")
    keep("two", seed=8)
    found = compared("one", "two", "p50>+2%,p99>+2%,qps<-2%")
    assert found.passed
    assert [cell.cell for cell in found.cells] == ["b1 c4", "b8 c4"]
    for cell in found.cells:
        names = [figure.metric for figure in cell.figures]
        assert {"qps", "p50", "p99", "errors", "rss"} <= set(names)
        for figure in cell.figures:
            if figure.change is not None:
                assert figure.verdict == "same", figure
                assert figure.low is not None
                assert figure.high is not None
                assert figure.low < 0 < figure.high
    assert any("no repeats" in warning for warning in found.warnings)


def test_a_slower_server_is_found() -> None:
    keep("one")
    keep("slow", slower=1.2, seed=8)
    found = compared("one", "slow", "p50>+10%,qps<-10%,p99>+50%")
    assert not found.passed
    assert {(one.metric, one.cell, one.ruling) for one in found.judged} == {
        (metric, cell, ruling)
        for metric, ruling in (("p50", "failed"), ("qps", "failed"), ("p99", "ok"))
        for cell in ("b1 c4", "b8 c4")
    }
    figure = found.cells[0].figure("p50")
    assert figure.change == pytest.approx(20, abs=2)
    assert figure.low < 20 < figure.high
    assert figure.verdict == "worse"
    faster = compared("slow", "one")
    assert faster.cells[0].figure("p50").verdict == faster.cells[0].figure("qps").verdict == "better"


def test_a_condition_that_is_met_within_the_noise_holds() -> None:
    keep("one")
    keep("slow", slower=1.06, seed=8)
    noisy = compared("one", "slow", "p50>+1%", between_percent=20)
    assert noisy.passed
    assert {one.ruling for one in noisy.judged} == {"within_noise"}
    sure = compared("one", "slow", "p50>+1%", between_percent=0)
    assert {one.ruling for one in sure.judged} == {"failed"}


def repeats(prefix: str, values: list[float]) -> str:
    """Runs without raw samples whose rates are `values` times those of the first."""
    names = []
    for number, factor in enumerate(values):
        cells = [
            cell.model_copy(update={"qps": cell.qps * factor, "texts_per_s": cell.texts_per_s * factor})
            for cell in cpu_run(SMALL).cells
        ]
        names.append(f"{prefix}{number}")
        with Store() as store:
            store.add_run(cpu_run(SMALL).model_copy(update={"id": names[-1], "cells": cells}))
    return ",".join(names)


def test_repeats_say_what_is_noise() -> None:
    """A loss of 8 %: clear where repeats agree within 1 %, nothing where they are 10 % apart."""
    steady = compared(repeats("a", [1.0, 1.01, 0.99]), repeats("b", [0.92, 0.93, 0.91]), "qps<-5%")
    assert [one.ruling for one in steady.judged] == ["failed", "failed"]
    assert "repeats" in steady.noise
    assert steady.cells[0].baseline_repeats == steady.cells[0].current_repeats == 3
    noisy = compared(repeats("c", [1.0, 1.1, 0.9]), repeats("d", [0.92, 1.02, 0.82]), "qps<-5%")
    assert [one.ruling for one in noisy.judged] == ["within_noise", "within_noise"]


def test_the_runs_of_a_series_are_its_repeats() -> None:
    for number, factor in enumerate((1.0, 1.01, 0.99), start=1):
        keep(f"series{number}", seed=number, series={"id": "abcd", "number": number, "of": 3})
        assert factor
    keep("one")
    found = compared("series1", "one")
    assert found.baseline.runs == ("series1", "series2", "series3")
    assert found.cells[0].baseline_repeats == 3


@pytest.mark.slow
def test_the_interval_covers_what_it_says() -> None:
    """Two samples of one server, many times over: a change beyond noise is rare."""
    chance = Random(3)  # noqa: S311
    beyond = 0
    for number in range(12):
        keep(f"x{number}", seed=chance.randrange(10**6))
        keep(f"y{number}", seed=chance.randrange(10**6))
        found = compared(f"x{number}", f"y{number}", between_percent=0)
        beyond += any(figure.beyond_noise for cell in found.cells for figure in cell.figures)
    assert beyond <= 3


def test_unlike_runs_are_refused_with_what_differs() -> None:
    keep("one")
    request = cpu_run(SMALL).request
    keep("other", manifest="sha256:0000", request={**request, "duration_s": 9.0, "concurrency": [4, 8]})
    with pytest.raises(BadInput) as caught:
        compared("one", "other")
    lines = "\n".join(caught.value.details)
    assert "concurrency: " in lines
    assert "duration_s: " in lines
    assert "texts: " in lines
    assert "--force" in str(caught.value.hint)
    forced = compared("one", "other", force=True)
    assert len(forced.unlike) == 3
    assert "UNLIKE WORK" in report.render(forced)
    with pytest.raises(BadInput, match="no repeats of one another"):
        compared("one,other", "one")


def test_void_and_missing_cells_are_not_compared() -> None:
    keep("one")
    bad = keep("two", seed=8)
    bad.cells[0].validity = Validity(verdict="void", reasons=["the client was the limit"])
    with Store() as store:
        store.update_run(bad)
    found = compared("one", "two", "p50>+10%")
    void, good = found.cells
    assert void.excluded == "two: void: the client was the limit"
    assert (void.figures, void.lost) == ((), False)
    assert good.excluded is None
    assert [one.ruling for one in found.judged] == ["skipped", "ok"]
    bad.cells = bad.cells[1:]
    with Store() as store:
        store.update_run(bad)
    found = compared("one", "two", "p50>+10%")
    assert found.cells[0].lost
    assert [one.ruling for one in found.judged] == ["failed", "ok"]


def test_a_condition_that_nothing_can_tell_fails() -> None:
    keep("one")
    keep("two", seed=8)
    found = compared("one", "two", "vram>+5%")
    assert [one.ruling for one in found.judged] == ["skipped", "skipped", "failed"]
    assert "could be compared in no cell" in found.judged[-1].why


def test_lost_samples_cost_the_noise_within_and_are_told() -> None:
    keep("one")
    keep("two", seed=8)
    with Store() as store:
        (store.run_folder("two") / "samples.parquet").write_bytes(b"no parquet")
    found = compared("one", "two")
    assert any("1 problem" in warning for warning in found.warnings)
    assert found.cells[0].figure("qps").beyond_noise is False


def test_reports_say_it_all(tmp_path: Path) -> None:
    keep("one")
    keep("slow", slower=1.2, seed=8)
    found = compared("one", "slow", "p50>+10%,qps<-50%")
    for width in (80, 160):
        text = report.render(found, width=width)
        assert "FAILED p50>+10% [b1 c4]" in text
        assert "WORSE" in text
    markdown = report.markdown(found)
    assert markdown.startswith("### Load compared: failed, 2 conditions not held")
    assert "**+" in markdown
    assert len(markdown) < 65_536  # GitHub's limit of a comment
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in rows)
    cases = report.cases(found)
    assert [case.passed for case in cases] == [False, False, True, True]


def test_a_large_grid_still_fits_a_comment() -> None:
    grid = [(2**power, clients) for power in range(10) for clients in (1, 2, 4, 8, 16)]
    for name in ("one", "two"):
        with Store() as store:
            store.add_run(cpu_run(grid).model_copy(update={"id": name}))
    assert len(report.markdown(compared("one", "two"))) < 65_536
    assert len(GRID) == 9


def test_the_command(cli: CommandLine, tmp_path: Path) -> None:
    keep("20260101-one")
    keep("20260102-slow", slower=1.2, seed=8)
    junit = tmp_path / "compare.xml"
    done = cli(
        "compare", "20260101", "20260102", "--fail-on", "p50>+10%,p99>+90%", "--json", "--junit", str(junit)
    )
    assert done.returncode == 1, done.stderr
    document = json.loads(done.stdout)
    assert document["passed"] is False
    assert document["comparisons"][0]["current"]["runs"] == ["20260102-slow"]
    assert "p50>+10% [b1 c4]" in done.stderr
    suite = ElementTree.fromstring(junit.read_text())[0]  # noqa: S314 - our own document
    assert (suite.attrib["tests"], suite.attrib["failures"]) == ("4", "2")
    assert cli("compare", "20260101", "20260102").returncode == 0  # without conditions nothing fails
    shown = cli("compare", "20260101", "20260102", "--format", "markdown")
    assert shown.stdout.startswith("### Load compared: ")
    for options, said in (
        (["20260101"], "needs two runs"),
        (["20260101", "20260102", "--fail-on", "p9>1%"], "character 1: no metric is named 'p9'"),
        (["20260101", "nothing"], "no run is named"),
    ):
        refused = cli("compare", *options)
        assert refused.returncode == 2
        assert said in refused.stderr


@pytest.fixture
def server() -> Iterator[Callable[..., str]]:
    """Start reference servers of known latencies; they end with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*options: str) -> str:
        process = subprocess.Popen(
            [sys.executable, str(REFERENCE), *options],
            stdout=subprocess.PIPE,
            text=True,
            env=dict(os.environ),
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


@pytest.mark.alone
def test_real_servers_the_same_twice_and_a_slower_one(cli: CommandLine, server: Callable[..., str]) -> None:
    """60 ms twice, then 72 ms: the first pair is the same within noise, the second is 20 % slower."""
    runs = []
    urls = [server("--answers", "ok@60"), server("--answers", "ok@72")]
    for url in (urls[0], urls[0], urls[1]):
        for _ in range(TRIES):
            done = cli("load", url, "--batch", "1", "--concurrency", "4", "--duration", "2s",
                       "--warmup", "200ms", "--json")  # fmt: skip
            assert done.returncode == 0, done.stderr
            record = json.loads(done.stdout)
            validity = record["cells"][0].get("validity") or {}
            if validity.get("verdict") != "void":
                break
        else:
            pytest.skip(f"this machine is too busy to measure on just now: {validity['reasons']}")
        runs.append(record["id"])
    # The tests share the machine with others: two runs of the same differ more there than on one's own.
    conditions = ["--fail-on", "p50>+10%,qps<-8%", "--noise", "8"]
    same = cli("compare", runs[0], runs[1], *conditions, "--json")
    assert same.returncode == 0, same.stderr
    cell = json.loads(same.stdout)["comparisons"][0]["cells"][0]
    told = {figure["metric"]: figure for figure in cell["figures"]}
    assert told["p50"]["verdict"] == told["qps"]["verdict"] == told["errors"]["verdict"] == "same"
    slower = cli("compare", runs[0], runs[2], *conditions, "--json")
    assert slower.returncode == 1, slower.stderr
    (found,) = json.loads(slower.stdout)["comparisons"]
    assert {(one["metric"], one["ruling"]) for one in found["judged"]} == {
        ("p50", "failed"),
        ("qps", "failed"),
    }
    assert any(line.startswith("url: ") for line in found["changed"])
