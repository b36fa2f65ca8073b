"""Load from several hosts. They are network namespaces, with a clock of their own where the kernel has it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from ports import unused_port

from deploytool import samples
from deploytool.cli.load_hosts import WAIT_S, hosts_given, spread
from deploytool.errors import BadInput
from deploytool.loadgen import validity
from deploytool.loadgen.hosts import SHELL, command
from deploytool.loadgen.measured import Samples
from deploytool.paths import data_dir
from deploytool.records import Cell, ClientProcess, Latency, PhaseMemory, RunRecord
from deploytool.store import Store

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "tests" / "stand_ins" / "reference_server.py"
CommandLine = Callable[..., "subprocess.CompletedProcess[str]"]
sys.path.append(str(ROOT / "loadtests"))

from load_wire import ForgedError, Session, greeting  # noqa: E402
from load_worker import Clock  # noqa: E402

APART_S = 1000
HUB = "10.231.7.1"


@dataclass(frozen=True)
class Network:
    """A hub, where the target and the master are, and two hosts beside it."""

    hub: str
    hosts: tuple[str, str]
    own_clock: bool

    @property
    def worker_shell(self) -> str:
        clock = f"unshare --time --monotonic {APART_S} --fork " if self.own_clock else ""
        return f"ip netns exec {{host}} {clock}{sys.executable} -m deploytool"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def network() -> Iterator[Network]:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces want root and iproute2")
    name = f"dt{os.getpid()}"
    hub, hosts = f"{name}h", (f"{name}a", f"{name}b")
    try:
        ip("netns", "add", hub)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespace can be made here: {error.stderr.decode().strip()}")
    try:
        ip("-n", hub, "link", "set", "lo", "up")
        ip("-n", hub, "link", "add", "br0", "type", "bridge")
        ip("-n", hub, "addr", "add", f"{HUB}/24", "dev", "br0")
        ip("-n", hub, "link", "set", "br0", "up")
        for number, host in enumerate(hosts):
            ip("netns", "add", host)
            ip("-n", host, "link", "set", "lo", "up")
            ip(
                "link",
                "add",
                f"v{number}",
                "netns",
                hub,
                "type",
                "veth",
                "peer",
                "name",
                "eth0",
                "netns",
                host,
            )
            ip("-n", hub, "link", "set", f"v{number}", "master", "br0", "up")
            ip("-n", host, "addr", "add", f"10.231.7.{number + 2}/24", "dev", "eth0")
            ip("-n", host, "link", "set", "eth0", "up")
        clock = ["unshare", "--time", "--monotonic", str(APART_S), "--fork", "true"]
        yield Network(hub, hosts, subprocess.run(clock, capture_output=True, check=False).returncode == 0)
    finally:
        for namespace in (hub, *hosts):
            subprocess.run(["ip", "netns", "del", namespace], capture_output=True, check=False)


@contextlib.contextmanager
def target(network: Network, record: Path) -> Iterator[str]:
    process = subprocess.Popen(
        ["ip", "netns", "exec", network.hub, sys.executable, str(REFERENCE), "--answers", "ok@5*24,ok@60",
         "--host", HUB, "--record", str(record)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.stdout.close()
    finally:
        process.kill()
        process.wait()


def load(network: Network, url: str, *options: str) -> list[str]:
    return [
        "ip", "netns", "exec", network.hub, sys.executable, "-m", "deploytool", "load", url,
        "--master", f"{HUB}:5557", "--workers", ",".join(network.hosts),
        "--worker-shell", network.worker_shell, "--batch", "1", *options,
    ]  # fmt: skip


@pytest.mark.alone
def test_two_hosts_make_one_load(network: Network, tmp_path: Path) -> None:
    """The samples of both are one cell's, their times those of the master's clock."""
    with target(network, tmp_path / "record.csv") as url:
        done = subprocess.run(
            load(network, url, "--concurrency", "4,3", "--duration", "2s", "--warmup", "300ms", "--json",
                 "--min-samples", "400", "--max-duration", "30s", "--checks", "4"),
            cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = RunRecord.model_validate(json.loads(done.stdout))
    assert record.request["workers"] == 2
    assert [cell.name for cell in record.cells] == ["b1 c4", "b1 c3"]
    assert record.folder is not None
    rows = samples.read(Path(record.folder) / "samples.parquet")
    received = sorted(int(line.split(",")[0]) for line in (tmp_path / "record.csv").read_text().splitlines())
    for cell in record.cells:
        mine = [row for row in rows if row["cell"] == cell.name]
        measured = [row for row in mine if row["phase"] == "measure"]
        assert {row["worker"] for row in measured} == {"0", "1"}
        assert cell.requests == len(measured) >= 400
        assert cell.errors == {}
        ordered = sorted(row["latency_ns"] / 1e6 for row in measured)
        assert cell.latency_ms.p99 == ordered[-(-len(ordered) * 99 // 100) - 1] > 55
        assert cell.answers is not None
        assert (cell.answers.answers, cell.answers.wrong) == (4, 0)
        assert cell.null is not None
        assert sorted(str(client.host) for client in cell.client) == sorted(network.hosts)
        for client in cell.client:
            assert client.clock_offset_ms is not None
            assert abs(client.clock_offset_ms + (APART_S * 1000 if network.own_clock else 0)) < 1000
            assert client.lost is None
        # Each worker's clock is far off; what it sent lies where the server saw it.
        assert received[0] < min(row["start_ns"] for row in mine) + 10**9
        assert max(row["start_ns"] for row in mine) < received[-1] + 10**9


@pytest.mark.alone
def test_a_worker_that_dies_is_named_and_its_share_voids_the_cell(network: Network, tmp_path: Path) -> None:
    with target(network, tmp_path / "record.csv") as url:
        tool = subprocess.Popen(
            load(network, url, "--concurrency", "4", "--duration", "8s", "--warmup", "0s", "--no-calibration",
                 "--checks", "0"),
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            folder = eventually(lambda: next((data_dir() / "runs").glob("*/cells/*/progress-1.json"), None))
            victim = network.hosts[1] if _is_measuring(folder, network.hosts[1]) else network.hosts[0]
            for process in _worker(tool.pid, victim):
                process.kill()
            shown, said = tool.communicate(timeout=300)
        finally:
            tool.kill()
            tool.wait()
    assert tool.returncode == 0, said
    with Store() as store:
        record = store.run("latest")
    (cell,) = record.cells
    assert cell.validity is not None
    assert cell.validity.verdict == "void"
    assert any(f"the worker {victim} was lost" in reason for reason in cell.validity.reasons)
    assert "50 % of the load" in cell.validity.reasons[0]
    assert victim in shown
    assert [client.host for client in cell.client if client.lost] == [victim]
    assert record.folder is not None
    rows = samples.read(Path(record.folder) / "samples.parquet")
    assert {row["worker"] for row in rows} == {"0", "1"}, "what the lost worker had sent is kept"


def eventually(what: Callable[[], Path | None], seconds: float = 200) -> Path:
    deadline = time.monotonic() + seconds
    while (found := what()) is None:
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.05)
    return found


def _is_measuring(progress: Path, host: str) -> bool:
    """Wait until both workers' samples have come in; whether `host` is the one with this progress."""
    for rank in (0, 1):
        path = progress.with_name(f"samples-{rank}.csv")
        eventually(lambda path=path: path if path.exists() and path.read_text().count("\n") > 50 else None)  # type: ignore[misc]
    return bool(json.loads(progress.read_text())["host"] == host)


def _worker(tool: int, host: str) -> list[psutil.Process]:
    """The processes of one host's worker, the load process last."""
    below = psutil.Process(tool).children(recursive=True)
    own = [process for process in below if host in process.cmdline() and "--worker" in process.cmdline()]
    return [*own, *(child for process in own[-1:] for child in process.children(recursive=True))]


@pytest.mark.slow
def test_workers_end_with_a_run_that_is_killed(tmp_path: Path) -> None:
    """Whatever started them: their input ends. Else they would wait for another master."""
    with subprocess.Popen(
        [sys.executable, str(REFERENCE), "--answers", "ok@5"], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        tool = subprocess.Popen(
            [sys.executable, "-m", "deploytool", "load", server.stdout.readline().strip(),
             "--master", f"127.0.0.1:{unused_port()}", "--workers", "one,two",
             "--worker-shell", f"env WHERE={{host}} {sys.executable} -m deploytool", "--batch", "1",
             "--concurrency", "2", "--duration", "100s", "--no-calibration"],
            cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            eventually(lambda: next((data_dir() / "runs").glob("*/cells/*/progress-1.json"), None))
            workers = _worker(tool.pid, "one") + _worker(tool.pid, "two")
        finally:
            tool.kill()
            tool.wait()
            server.kill()
    assert len(workers) >= 4, "two workers, and the load process of each"
    _, alive = psutil.wait_procs(workers, timeout=WAIT_S / 2)
    assert alive == []


@pytest.mark.alone
def test_another_token_is_refused(tmp_path: Path) -> None:
    port = unused_port()
    with subprocess.Popen(
        [sys.executable, str(REFERENCE), "--answers", "ok@5"], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        at = f"127.0.0.1:{port}"
        base = [sys.executable, "-m", "deploytool", "load", url]
        master = subprocess.Popen(
            [*base, "--master", at, "--expect-workers", "1", "--batch", "1", "--concurrency", "1"],
            cwd=ROOT, env={**os.environ, "DEPLOYTOOL_LOAD_TOKEN": "one"}, stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            worker = subprocess.run(
                [*base, "--worker", at], cwd=ROOT, env={**os.environ, "DEPLOYTOOL_LOAD_TOKEN": "other"},
                capture_output=True, text=True, timeout=300, check=False,
            )  # fmt: skip
        finally:
            master.terminate()
            master.wait()
            server.kill()
    assert worker.returncode == 6, worker.stderr
    assert "another token" in worker.stderr
    assert "other" not in worker.stderr.replace("another", "")


def test_a_message_is_only_taken_from_who_knows_the_token() -> None:
    master = Session(b"token", "n1", "n2", is_master=True)
    worker = Session(b"token", "n1", "n2", is_master=False)
    sent = worker.seal("samples", b"1,2,3")
    assert master.open("samples", sent) == b"1,2,3"
    with pytest.raises(ForgedError):
        master.open("samples", sent)  # a second time
    for kind, change in (
        ("kept", {}), ("samples", {"body": b"1,2,4"}), ("samples", {"n": 9}), ("samples", {"mac": "0" * 64}),
        ("samples", {"mac": None}), ("samples", {"n": "x"}),
    ):  # fmt: skip
        with pytest.raises(ForgedError):
            master.open(kind, worker.seal("samples", b"1,2,3") | change)
    with pytest.raises(ForgedError):
        worker.open("samples", worker.seal("samples", b"its own"))
    stranger = Session(b"guess", "n1", "n2", is_master=False)
    with pytest.raises(ForgedError):
        master.open("samples", stranger.seal("samples", b"1,2,3"))
    assert greeting(b"token", "n1", "n2") != greeting(b"guess", "n1", "n2")


def test_what_does_not_go_together_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEPLOYTOOL_LOAD_TOKEN", raising=False)
    for given in (
        ("h:1", None, None, None, None, None, None), (None, 2, None, None, None, None, None),
        ("h:1", 2, None, None, "h:1", None, None), ("h:1", 3, "a,b", None, None, None, None),
        (None, None, None, "ssh {host}", None, None, None),
    ):  # fmt: skip
        with pytest.raises(BadInput):
            hosts_given(*given)
    over_the_network = hosts_given("10.1.2.3:5557", 2, None, None, None, None, None)
    with pytest.raises(BadInput, match="wants a token"), spread(over_the_network, "http://h"):
        pass
    with spread(hosts_given("127.0.0.1:5557", 2, None, None, None, None, None), "http://h") as here:
        assert here is not None
        assert (here.port, here.workers) == (5557, 2)
    with pytest.raises(BadInput, match="cannot be put"):
        command(SHELL, "host;reboot", "http://h", "10.1.2.3:5557")
    with pytest.raises(BadInput, match="cannot be put"):
        command(SHELL, "-oProxyCommand=x", "http://h", "10.1.2.3:5557")
    argv = command(SHELL, "b1", "http://h", "10.1.2.3:5557")
    assert argv[:5] == ["ssh", "-o", "BatchMode=yes", "b1", "deploytool"]
    assert ClientProcess.model_validate({"cpu_percent": 3.0}).lost is None


def test_a_clock_that_was_set_or_is_hardly_known_marks_the_cell() -> None:
    """The window is told in the master's clock: workers must agree on it."""

    def reasons(**clock: float) -> tuple[str, str]:
        cell = Cell(
            batch=1, concurrency=2, requests=5000, duration_s=10.0, qps=500.0, texts_per_s=500.0,
            latency_ms=Latency(p50=4.0, p99=9.0), client=[ClientProcess(host="b1"), ClientProcess(host="b2", **clock)],
        )  # fmt: skip
        found = validity.judge(cell, Samples(), None, PhaseMemory(phase="load b1 c2"), None)
        return found.verdict, " ".join(found.reasons)

    assert reasons(clock_uncertain_ms=2.0, clock_moved_ms=0.5, clock_offset_ms=1e6) == ("valid", "")
    verdict, said = reasons(clock_moved_ms=250.0)
    assert (verdict, "clock of the worker b2 moved by 250 ms" in said) == ("void", True)
    verdict, said = reasons(clock_uncertain_ms=150.0)
    assert (verdict, "only known to 150 ms" in said) == ("suspect", True)


def test_the_offset_of_a_clock_is_that_of_the_quickest_trip() -> None:
    clock = Clock()
    clock.take([(0, 1_000_900, 1_000), (5_000, 1_005_050, 5_100), (9_000, 1_012_000, 10_000)])
    assert (clock.offset_ns, clock.uncertain_ns) == (1_000_000, 50)
    clock.take([(20_000, 1_020_060, 20_100)])
    assert clock.moved_ns == 0, "within what is uncertain"
    clock.take([(30_000, 1_530_050, 30_100)])
    assert clock.moved_ns == 500_000 - 100
