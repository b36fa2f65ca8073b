"""`load` against servers of known latencies, and against everything that can break in the middle of a run."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from measuring import kept_its_bounds

from deploytool import samples
from deploytool.records import RunRecord
from deploytool.store import Store

pytestmark = pytest.mark.alone

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = Path(__file__).resolve().parent / "stand_ins" / "reference_server.py"
LOCUSTFILE = ROOT / "loadtests" / "embeddings.py"
Row = dict[str, Any]
CommandLine = Callable[..., "subprocess.CompletedProcess[str]"]


@dataclass(frozen=True)
class Reference:
    """A running reference server and what it recorded of itself: (received, answered, kind)."""

    url: str
    process: subprocess.Popen[str]
    record: Path

    def served(self) -> list[tuple[int, int, str]]:
        lines = [line.split(",") for line in self.record.read_text().splitlines()]
        return [(int(received), int(answered), kind) for received, answered, kind in lines]


Start = Callable[..., Reference]
BARE = ("--no-calibration", "--checks", "0")  # no request but those of the load and the proof before it
# What has to happen in the middle of a cell finds it long: 50 answers are asked of each, which are slow then.
SLOW_LATER = "ok@10*60,ok@400*100000"
SLOW_BETWEEN = "ok@10*60,ok@400*24,ok@10*100000"
SLOW_FIRST = "ok@300*16,ok@10*100000"
FIFTY = ("--batch", "1", "--duration", "500ms", "--warmup", "0s", "--min-samples", "50")


@pytest.fixture
def reference(tmp_path: Path) -> Iterator[Start]:
    """Start reference servers; they end with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(answers: str, *options: str) -> Reference:
        record = tmp_path / f"record{len(started)}.csv"
        process = subprocess.Popen(
            [sys.executable, str(REFERENCE), "--answers", answers, "--record", str(record), *options],
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        return Reference(process.stdout.readline().strip(), process, record)

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@contextlib.contextmanager
def running(*args: str) -> Iterator[subprocess.Popen[str]]:
    """The command in a process of its own, for tests that end it themselves."""
    process = subprocess.Popen(
        [sys.executable, "-m", "deploytool", "load", *args, *BARE],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def stored(reference: str = "latest") -> RunRecord:
    with Store() as store:
        return store.run(reference)


def rows_of(record: RunRecord) -> list[Row]:
    assert record.folder is not None
    return samples.read(Path(record.folder) / "samples.parquet")


def nearest_rank(values: list[float], percent: float) -> float:
    return sorted(values)[math.ceil(len(values) * percent / 100) - 1]


def eventually(what: Callable[[], bool], seconds: float = 120) -> None:
    """Wait for something that must come true; the bound only ends a test that has failed."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.05)


def cells_stored() -> int:
    with Store() as store:
        runs = store.runs()
    return len(runs[0].cells) if runs else 0


def load_generators(tool: int) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(tool).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it may end while it is looked at
            if "locust" in " ".join(child.cmdline()):
                found.append(child)
    return found


def test_figures_agree_with_a_server_that_knows_its_latencies(cli: CommandLine, reference: Start) -> None:
    """Latencies of two kinds, 5 and 60 ms, 4 % of them slow: P50 is of the one kind, P99 of the other."""
    assert kept_its_bounds(lambda: agrees(cli, reference("ok@5*24,ok@60", "--vectors", "4")))


def agrees(cli: CommandLine, server: Reference) -> bool:
    """Whether the figures of a load are as near to the server's own as they are on a machine that is idle."""
    done = cli("load", server.url, "--batch", "4", "--concurrency", "1,4", "--duration", "1s",
               "--min-samples", "400", "--max-duration", "30s", "--warmup", "200ms", "--json",
               *BARE)  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = RunRecord.model_validate(json.loads(done.stdout))
    rows = rows_of(record)
    is_near = True
    served = server.served()
    # Every request that the server saw is in the samples, and the one that proved the target before.
    assert len(served) == len(rows) + 1
    del served[0]
    for name in ("b4 c1", "b4 c4"):
        ours = sorted((row for row in rows if row["cell"] == name), key=lambda row: int(row["start_ns"]))
        theirs = served[: len(ours)]
        del served[: len(ours)]
        cell = next(cell for cell in record.cells if f"b{cell.batch} c{cell.concurrency}" == name)
        in_window = [i for i, row in enumerate(ours) if row["phase"] == "measure"]
        assert (
            cell.requests == len(in_window) >= 400
        )  # the second asked for was not enough, so it took longer
        assert cell.errors == {}
        latencies = [ours[i]["latency_ns"] / 1e6 for i in in_window]
        assert cell.latency_ms.p50 == nearest_rank(latencies, 50)
        assert cell.latency_ms.p99 == nearest_rank(latencies, 99)
        assert cell.latency_ms.max == max(latencies)
        truth = sorted(theirs)
        own = [(truth[i][1] - truth[i][0]) / 1e6 for i in in_window]
        # Never below the truth; above it by what the client and the machine add.
        for percent, allowance_ms in ((50, 2.0), (99, 10.0)):
            said, true = nearest_rank(latencies, percent), nearest_rank(own, percent)
            assert true <= said, (name, percent)
            is_near = is_near and said <= true * 1.01 + allowance_ms
        assert cell.qps == pytest.approx(cell.requests / cell.duration_s)
        assert cell.texts_per_s == pytest.approx(4 * cell.qps)
        assert cell.tokens_per_s == pytest.approx(28 * cell.qps)  # the server says 7 tokens a text
    single = sorted((row for row in rows if row["cell"] == "b4 c1"), key=lambda row: int(row["start_ns"]))
    for row, (received, answered, _) in zip(single, server.served()[1:], strict=False):
        assert row["start_ns"] <= received < answered <= row["start_ns"] + row["latency_ns"]
    return is_near


def test_a_stall_of_the_server_is_in_the_figures(cli: CommandLine, reference: Start) -> None:
    server = reference("ok@5*60,stall@600,ok@5*100000")
    done = cli(
        "load",
        server.url,
        "--batch",
        "1",
        "--concurrency",
        "4",
        "--duration",
        "2s",
        "--warmup",
        "0s",
        "--json",
        *BARE,
    )
    assert done.returncode == 0, done.stderr
    cell = json.loads(done.stdout)["cells"][0]
    assert cell["latency_ms"]["p50"] < 100
    rows = rows_of(stored())
    slowest = max(rows, key=lambda row: int(row["latency_ns"]))
    middle = slowest["start_ns"] + slowest["latency_ns"] / 2
    met = [row for row in rows if row["start_ns"] < middle < row["start_ns"] + row["latency_ns"]]
    assert len(met) == 4  # all four requests that were in flight, not only the one that met it
    assert min(row["latency_ns"] for row in met) > 250e6
    assert cell["latency_ms"]["max"] == slowest["latency_ns"] / 1e6 > 600


def test_errors_are_told_apart_and_counted(cli: CommandLine, reference: Start) -> None:
    kinds = "ok@5,400@2,429@2,500@2,garbage@2,error200@2,short@2,strange@2,reset@2,silent"
    server = reference(f"ok,{kinds}")  # the first answer is for the proof
    done = cli("load", server.url, "--batch", "1", "--concurrency", "3", "--duration", "4s", "--warmup", "0s",
               "--timeout", "1s", "--json", *BARE)  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = RunRecord.model_validate(json.loads(done.stdout))
    expected = Counter(
        {"ok": "", "400": "4xx", "429": "429", "500": "5xx", "garbage": "bad_body", "error200": "bad_body",
         "short": "reset", "strange": "bad_body", "reset": "reset", "silent": "timeout"}[kind]
        for _, _, kind in server.served()[1:]
    )  # fmt: skip
    rows = rows_of(record)
    found = Counter(row["error"] or "" for row in rows)
    assert found == expected
    assert len(expected) == 7
    cell = record.cells[0]
    inside = [row for row in rows if row["phase"] == "measure"]
    assert cell.errors == Counter(row["error"] for row in inside if row["error"])
    assert cell.requests == sum(not row["error"] for row in inside)
    good = [row["latency_ns"] / 1e6 for row in inside if not row["error"]]
    assert cell.latency_ms.max == max(good)  # time-outs of a second are no latency of a success


def test_the_target_dies_in_the_middle(cli: CommandLine, reference: Start) -> None:
    server = reference("ok@10")
    with running(
        server.url, "--batch", "1", "--concurrency", "2,3,4", "--duration", "4s", "--warmup", "0s"
    ) as tool:
        eventually(lambda: cells_stored() == 1)
        eventually(lambda: bool(load_generators(tool.pid)))
        seen = len(server.served())
        eventually(lambda: len(server.served()) > seen + 50)
        server.process.kill()
        _, said = tool.communicate(timeout=200)
    assert tool.returncode == 1, said
    record = stored()
    assert record.state == "failed"
    done, dying, never = record.cells
    assert (done.state, done.errors) == ("done", {})
    assert dying.requests > 0
    assert dying.latency_ms.p50 is not None
    assert set(dying.errors) <= {"refused", "reset"}
    assert dying.errors["refused"] > 0
    assert never.state == "failed"
    assert never.reason is not None
    assert "the target was gone before this cell" in never.reason
    assert (never.requests, never.latency_ms.p50) == (0, None)


def test_a_killed_tool_keeps_finished_cells_and_leaves_no_load(cli: CommandLine, reference: Start) -> None:
    server = reference(SLOW_BETWEEN)
    with running(server.url, "--concurrency", "2,3", "--max-duration", "60s", *FIFTY) as tool:
        eventually(lambda: cells_stored() == 1)
        eventually(lambda: bool(load_generators(tool.pid)))
        orphans = load_generators(tool.pid)
        tool.send_signal(signal.SIGKILL)
        tool.wait()
    psutil.wait_procs(orphans, timeout=120)
    assert not [
        process for process in orphans if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    ]
    record = stored()
    assert record.state == "interrupted"
    assert [cell.state for cell in record.cells] == ["done"]
    first = rows_of(record)
    assert {row["cell"] for row in first} == {"b1 c2"}

    # The grid goes on with what is missing, and only with the same work.
    refused = cli("load", server.url, "--resume", record.id, "--duration", "9s", "--batch", "1,4")
    assert refused.returncode == 2
    assert "duration_s: it was 0.5, now 9.0" in refused.stderr
    assert "batch: it was" in refused.stderr
    other = reference("ok@10")
    refused = cli("load", other.url, "--resume", record.id)
    assert refused.returncode == 2
    assert "url: it was" in refused.stderr
    done = cli("load", server.url, "--resume", record.id, *BARE)
    assert done.returncode == 0, done.stderr
    whole = stored(record.id)
    assert whole.state == "finished"
    assert [(cell.concurrency, cell.state) for cell in whole.cells] == [(2, "done"), (3, "done")]
    assert whole.cells[0] == record.cells[0]
    rows = rows_of(whole)
    assert [row for row in rows if row["cell"] == "b1 c2"] == first
    assert (
        Counter(row["cell"] for row in rows if row["phase"] == "measure")["b1 c3"]
        == whole.cells[1].requests
        > 0
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_runs_keep_what_was_measured(reference: Start, number: signal.Signals) -> None:
    server = reference(SLOW_LATER)
    with running(server.url, "--concurrency", "1,2", "--max-duration", "60s", *FIFTY) as first:
        eventually(lambda: cells_stored() == 1)
        eventually(lambda: bool(load_generators(first.pid)))
        children = load_generators(first.pid)
        seen = len(server.served())
        eventually(lambda: len(server.served()) > seen + 4)
        first.send_signal(number)
        shown, said = first.communicate(timeout=200)
    assert first.returncode == 130, said
    assert "--resume" in said
    assert not [child for child in children if child.is_running()]
    record = stored()
    assert (record.state, record.reason) == ("interrupted", "Ctrl-C")
    assert record.cells[0].state == "done"
    assert [cell.state for cell in record.cells[1:]] in ([], ["interrupted"])
    assert record.id in shown


def test_a_dead_load_generator_fails_its_cell_and_no_other(reference: Start) -> None:
    server = reference(SLOW_FIRST)
    with running(server.url, "--concurrency", "1,2", "--max-duration", "60s", *FIFTY) as tool:
        eventually(lambda: len(server.served()) > 3)
        load_generators(tool.pid)[0].kill()
        _, said = tool.communicate(timeout=200)
    assert tool.returncode == 1, said
    record = stored()
    assert [cell.state for cell in record.cells] == ["failed", "done"]
    assert "SIGKILL" in str(record.cells[0].reason)
    assert record.state == "finished"


def test_a_batch_that_the_server_refuses_fails_alone(cli: CommandLine, reference: Start) -> None:
    server = reference("ok@5", "--most-bytes", "2000")
    done = cli(
        "load",
        server.url,
        "--batch",
        "64,1",
        "--concurrency",
        "1",
        "--duration",
        "500ms",
        "--warmup",
        "0s",
        *BARE,
    )
    assert done.returncode == 1
    record = stored()
    assert [(cell.batch, cell.state) for cell in record.cells] == [(64, "failed"), (1, "done")]
    assert "64 texts was answered 413" in str(record.cells[0].reason)


def test_nothing_listens_and_nothing_is_kept(
    cli: CommandLine, free_port: Callable[[], int], home: Path
) -> None:
    done = cli("load", f"http://127.0.0.1:{free_port()}", "--duration", "1s")
    assert done.returncode == 6
    assert "does not answer" in done.stderr
    with Store() as store:
        assert store.runs() == []
    assert not list(home.rglob("bodies-*"))


def test_the_key_is_used_and_never_written(
    cli: CommandLine, reference: Start, home: Path, tmp_path: Path
) -> None:
    key = "sk-test-0123456789"
    server = reference("ok@5", "--key", key)
    refused = cli("load", server.url, "--duration", "1s")
    assert refused.returncode == 6
    assert "DEPLOYTOOL_API_KEY" in refused.stderr
    file = tmp_path / "key"
    file.write_text(key + "\n")
    arguments = [
        server.url,
        "--batch",
        "1",
        "--concurrency",
        "1",
        "--duration",
        "1s",
        "--api-key-file",
        str(file),
    ]
    with running(*arguments) as tool:
        eventually(lambda: bool(load_generators(tool.pid)))
        lines = [" ".join(process.cmdline()) for process in load_generators(tool.pid)]
        shown, said = tool.communicate(timeout=200)
    assert tool.returncode == 0, said
    assert stored().cells[0].requests > 0
    assert key not in shown + said + "".join(lines)
    for path in home.rglob("*"):
        assert not path.is_file() or key.encode() not in path.read_bytes(), path


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--batch", "1,x"], "no list of whole numbers"),
        (["--batch", "0"], "from 1 to 4096"),
        (["--concurrency", "5000"], "from 1 to 900"),
        (["--duration", "soon"], "no duration"),
        (["--duration", "0s"], "duration_s"),
        (["--encoding", "int8"], "encoding"),
        (["--text-tokens", "zipf:3"], "no distribution"),
        (["--corpus", "/no/such/file.txt"], "cannot read the corpus"),
        (["--resume", "nothing"], "no run is named"),
    ],
)
def test_what_cannot_be_asked_is_said(
    cli: CommandLine, reference: Start, options: list[str], said: str
) -> None:
    done = cli("load", reference("ok").url, *options)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr


def test_without_locust_the_extra_is_named(tmp_path: Path, reference: Start) -> None:
    """An installation that lacks locust: every other package of this one, by links."""
    site = tmp_path / "site"
    site.mkdir()
    for entry in Path(psutil.__file__).parent.parent.iterdir():
        if not entry.name.lower().startswith(("locust", "__editable__")) and entry.suffix != ".pth":
            (site / entry.name).symlink_to(entry)
    code = (
        f"import sys; sys.path[:0] = {[str(ROOT), str(site)]}; from deploytool.cli.main import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, "load", reference("ok").url],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 8, done.stderr
    assert "pip install 'deploytool[load]'" in done.stderr


def test_the_locustfile_runs_by_itself(reference: Start, tmp_path: Path) -> None:
    server = reference("ok@5", "--vectors", "3")
    texts = tmp_path / "texts.txt"
    texts.write_text("uno\ndos\ntres\ncuatro\n")
    out = tmp_path / "samples.csv"
    done = subprocess.run(
        [
            sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless",
            "--host", server.url, "-u", "2", "-r", "2", "-t", "3s", "--batch", "3",
            "--texts-file", str(texts), "--samples", str(out), "--only-summary",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = out.read_text().splitlines()[1:]
    assert len(lines) > 20
    # At its end locust cuts off what is in flight: two users, so at most two more on the server's side.
    assert len(lines) <= len(server.served()) <= len(lines) + 2
    assert {line.split(",")[3] for line in lines} == {""}
    assert {line.split(",")[4] for line in lines} == {"21"}


def test_a_load_generator_whose_parent_is_gone_does_not_start(tmp_path: Path, reference: Start) -> None:
    server = reference("ok")
    done = subprocess.run(
        [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--host",
         server.url, "-t", "1s"],
        env={**os.environ, "DEPLOYTOOL_LOAD_PARENT": "1"},
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert server.served() == []


@pytest.mark.model
def test_a_deployment_is_measured_with_its_memory_and_killed_under_load(cli: CommandLine) -> None:
    up = cli("up", "all-minilm-l6-v2", "--profile", "cpu", "--name", "loaded", "--port", "auto",
             "--no-smoke", "--json")  # fmt: skip
    assert up.returncode == 0, up.stderr
    try:
        done = cli("load", "loaded", "--batch", "4", "--concurrency", "2", "--duration", "1s",
                   "--warmup", "200ms", "--no-calibration", "--encoding", "base64",
                   "--text-tokens", "fixed:32", "--json")  # fmt: skip
        assert done.returncode == 0, done.stderr
        record = RunRecord.model_validate(json.loads(done.stdout))
        cell = record.cells[0]
        assert (cell.state, cell.errors) == ("done", {})
        assert cell.requests > 0
        assert cell.tokens_per_s == pytest.approx(32 * cell.texts_per_s)  # fixed by the model's own tokenizer
        assert (cell.vram_peak_mib, cell.vram_reason) == (None, "the server runs on the CPU (profile cpu)")
        checked = cell.answers
        assert checked is not None
        assert (checked.answers, checked.wrong, checked.problems, checked.dimensions) == (8, 0, [], 384)
        assert checked.tokens_counted == checked.tokens_intended == 8 * 4 * 32
        assert checked.cosine_min == pytest.approx(1, abs=1e-4)
        assert cell.rss_peak_mib is not None
        assert cell.rss_peak_mib > 100
        assert [phase.phase for phase in record.memory] == [
            "idle",
            "loaded",
            "load b4 c2",
            "checking answers",
        ]
        assert record.folder is not None
        timeline = samples.read(Path(record.folder) / "memory.parquet")
        peak = max(row["rss_mib"] for row in timeline if row["phase"] == "load b4 c2")
        assert cell.rss_peak_mib == pytest.approx(peak)
        with running(
            "loaded", "--batch", "1", "--concurrency", "2,4", "--duration", "60s", "--warmup", "0s"
        ) as tool:
            eventually(lambda: bool(load_generators(tool.pid)))
            progress = "*/cells/b1-c2/samples-0.csv"
            with Store() as store:
                folder = store.folder / "runs"
            eventually(lambda: any(path.read_text().count("\n") > 20 for path in folder.glob(progress)))
            os.kill(json.loads(up.stdout)["pid"], signal.SIGKILL)
            _, said = tool.communicate(timeout=200)
        assert tool.returncode == 1, said
        dying, never = stored().cells
        assert dying.requests > 0
        assert set(dying.errors) <= {"refused", "reset"}
        assert sum(dying.errors.values()) > 0
        assert "is gone" in str(dying.reason)  # the minute was not waited for
        assert "gone before this cell" in str(never.reason)
        ps = json.loads(cli("ps", "--json").stdout)
        assert [(row["state"], "SIGKILL" in row["reason"]) for row in ps] == [("died", True)]
    finally:
        cli("down", "--all")
