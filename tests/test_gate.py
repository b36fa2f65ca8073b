"""`gate`: smoke, the baseline's own load and the comparison, with one exit code."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from example_runs import cpu_run
from stand_ins.faulty_server import FaultyServer

from deploytool.gate import default_conditions, request_of
from deploytool.store import Store

CommandLine = Callable[..., "subprocess.CompletedProcess[str]"]
LOAD = ["--batch", "2", "--concurrency", "2", "--duration", "1500ms", "--warmup", "200ms", "--json"]


def suite(path: Path) -> ElementTree.Element:
    return ElementTree.fromstring(path.read_text())[0]  # noqa: S314 - our own document


def baseline(cli: CommandLine, url: str) -> dict[str, Any]:
    done = cli("load", url, *LOAD)
    assert done.returncode == 0, done.stderr
    record: dict[str, Any] = json.loads(done.stdout)
    return record


@pytest.mark.alone
def test_an_open_gate(cli: CommandLine, tmp_path: Path) -> None:
    junit = tmp_path / "gate.xml"
    with FaultyServer() as server:
        before = baseline(cli, server.url)
        passed = cli("gate", server.url, "--baseline", before["id"], "--fail-on", "p50>+300%,errors>+5%",
                     "--junit", str(junit), "--json")  # fmt: skip
        assert passed.returncode == 0, passed.stderr
        document = json.loads(passed.stdout)
        assert document["passed"] is True
        assert document["comparison"]["judged"]
        assert {check["passed"] for check in document["checks"]} <= {True, None}
        with Store() as store:
            again = store.run(document["run"])
        assert again.manifest == before["manifest"]
        assert again.request["duration_s"] == 1.5
        names = [case.attrib["name"] for case in suite(junit).findall("testcase")]
        assert "smoke: single" in names
        assert "p50>+300% [b2 c2]" in names
        assert suite(junit).attrib["failures"] == "0"
        assert "the gate is open" in passed.stderr


@pytest.mark.alone
def test_a_slower_server_is_stopped(cli: CommandLine) -> None:
    with FaultyServer() as server:
        before = baseline(cli, server.url)
    # The baseline becomes one of a server that was five times as fast.
    with Store() as store:
        record = store.run(before["id"])
        for cell in record.cells:
            cell.qps, cell.texts_per_s = cell.qps * 5, cell.texts_per_s * 5
            cell.latency_ms.p50 = (cell.latency_ms.p50 or 0) / 5
        store.update_run(record)
    with FaultyServer() as server:
        closed = cli("gate", server.url, "--baseline", before["id"], "--fail-on", "qps<-50%,p50>+100%")
    assert closed.returncode == 1, closed.stderr
    assert "FAILED qps<-50% [b2 c2]" in closed.stdout
    assert "the gate is closed" in closed.stderr


def test_wrong_vectors_close_it_before_any_load(cli: CommandLine, tmp_path: Path) -> None:
    junit = tmp_path / "gate.xml"
    before = cpu_run()
    with Store() as store:
        store.add_run(before)
    with FaultyServer("shuffled_index") as server:
        closed = cli("gate", server.url, "--baseline", before.id, "--junit", str(junit))
    assert closed.returncode == 6, closed.stderr
    assert "load: not run" in closed.stdout
    assert int(suite(junit).attrib["failures"]) >= 1
    with Store() as store:
        assert [run.id for run in store.runs()] == [before.id]


def test_nothing_there_is_no_pass(cli: CommandLine, free_port: Callable[[], int], tmp_path: Path) -> None:
    with Store() as store:
        store.add_run(cpu_run())
    junit = tmp_path / "gate.xml"
    done = cli("gate", f"http://127.0.0.1:{free_port()}", "--baseline", "latest", "--junit", str(junit))
    assert done.returncode == 6, done.stderr
    assert int(suite(junit).attrib["failures"]) >= 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--baseline", "nothing"], "no run is named"),
        (["--baseline", "latest", "--fail-on", "speed<-5%"], "no metric is named 'speed'"),
    ],
)
def test_what_cannot_be_asked_is_said(cli: CommandLine, options: list[str], said: str) -> None:
    with Store() as store:
        store.add_run(cpu_run())
    done = cli("gate", "http://127.0.0.1:9", *options)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr


def test_the_default_conditions_are_those_that_the_baseline_can_tell() -> None:
    run = cpu_run()
    assert "vram" not in default_conditions(run)
    assert "p99>+20%" in default_conditions(run)
    for cell in run.cells:
        cell.latency_ms.p99 = None
        cell.vram_peak_mib = 100.0
    assert "p50>+20%" in default_conditions(run)
    assert "vram>+5%" in default_conditions(run)
    assert request_of(run).batch == (1, 8, 32)
