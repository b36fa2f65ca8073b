"""Several workers behind one port: shares, metrics as one, a dead worker, a stop, a killed parent."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tiny_models import make_tiny

from deploytool.st_server import config, shares
from deploytool.st_server.board import Board, merged
from deploytool.st_server.errors import BadUsage
from deploytool.st_server.metrics import Metrics
from deploytool.st_server.shares import Place

ROOT = Path(__file__).resolve().parent.parent
MODEL = "tiny"
KEY = "a-key-of-the-workers"


def options(*flags: str) -> config.Config:
    return config.parse(["--model", "any/model", *flags], {})


def test_processors_are_shared_out_without_overlap() -> None:
    usable = sorted(os.sched_getaffinity(0))
    given = options("--device", "cpu", "--workers", str(len(usable)))
    found = [shares.cpus(given, index) for index in range(len(usable))]
    assert sorted(cpu for share in found for cpu in share) == usable
    assert all(len(share) == 1 for share in found)
    assert shares.cpus(options("--device", "cuda", "--workers", "2"), 0) == ()


def test_threads_and_queue_are_shared_out() -> None:
    given = options("--device", "cpu", "--threads", "4", "--workers", "2", "--max-queue", "101")
    told = config.parse(["--model", "any/model", *shares.flags(given, 9)][:-2], {})
    assert (told.workers, told.threads, told.max_queue) == (1, 2, 51)
    assert shares.flags(given, 9)[-2:] == ["--api-key-file", "/dev/fd/9"]


@pytest.mark.parametrize(
    ("device", "cards", "seen"), [("cuda", "3,5", ["3", "5", "3"]), ("cuda:1", "3,5", ["3,5"] * 3)]
)
def test_each_worker_sees_a_card(
    device: str, cards: str, seen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", cards)
    given = options("--device", device, "--workers", "3")
    environments = [shares.environment(given, Place(index, 7, (8,), (), 1)) for index in range(3)]
    assert [environ["CUDA_VISIBLE_DEVICES"] for environ in environments] == seen
    assert [shares.place(environ) for environ in environments] == [Place(i, 7, (8,), (), 1) for i in range(3)]


@pytest.mark.parametrize(
    "flags",
    [
        ["--workers", "0"],
        ["--workers", "3", "--threads", "2", "--device", "cpu"],
        ["--workers", "2", "--threads", "4", "--lanes", "3"],
    ],
)
def test_more_workers_than_there_is_room_for_are_refused(flags: list[str]) -> None:
    with pytest.raises(BadUsage, match=r"--workers|--lanes"):
        options(*flags)


def test_metrics_of_workers_are_one_text() -> None:
    board = Board.make(2)
    several = [Metrics(), Metrics()]
    for index, metrics in enumerate(several):
        metrics.join(board, index, starts=index + 1)
        metrics.computed(texts=3 + index, tokens=10, padded=10, seconds=0.1)
        metrics.answered("/v1/embeddings", 200, 0.1)
        metrics.publish()
    try:
        text = several[0].render().decode()
    finally:
        board.close()
    assert 'st_server_texts_total{worker="0"} 3.0' in text
    assert 'st_server_texts_total{worker="1"} 4.0' in text
    assert 'st_server_requests_total{worker="1",path="/v1/embeddings",status="200"} 1.0' in text
    assert 'st_server_worker_starts{worker="1"} 2.0' in text
    heads = [line for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(heads) == len(set(heads)) and "# TYPE st_server_texts_total counter" in heads
    # A family's samples stand together, behind its head.
    family = [line.split("{")[0] for line in text.splitlines() if line.startswith("st_server_texts_total")]
    at = text.splitlines().index("# TYPE st_server_texts_total counter")
    assert [line.split("{")[0] for line in text.splitlines()[at + 1 : at + 3]] == family


def test_a_page_that_is_not_whole_is_not_shown() -> None:
    board = Board.make(1)
    try:
        assert board.read(0) == b""
        board.write(0, b"a 1\n")
        os.pwrite(board.descriptors[0], b"x", 16)
        assert board.read(0) == b""
        board.write(0, b"a 1\n")
        assert merged([(0, board.read(0))]) == b"\n"  # a sample without its head is nobody's
    finally:
        board.close()


class Fleet:
    """A server with two workers, and what it said."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "deploytool.st_server", "--model", str(folder), "--workers", "2",
             "--device", "cpu", "--threads", "2", "--max-queue", "4096", "--port", "0"],
            stderr=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, "DEPLOYTOOL_API_KEY": KEY},
        )  # fmt: skip
        self.lines: list[str] = []
        self.thread = threading.Thread(target=self._collect, daemon=True)
        self.thread.start()

    def start(self) -> None:
        until(lambda: "stage: ready" in self.lines or self.process.poll() is not None)
        assert "stage: ready" in self.lines, self.lines
        self.port = int(self.lines[0].rpartition(":")[2])

    def _collect(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def call(self, path: str, texts: list[str] | None = None) -> tuple[int, str]:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            body = None if texts is None else json.dumps({"model": MODEL, "input": texts})
            connection.request(
                "GET" if body is None else "POST", path, body, {"Authorization": f"Bearer {KEY}"}
            )
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def metric(self, name: str) -> dict[str, float]:
        found = re.findall(rf'^{name}{{worker="(\d)"}} (\S+)$', self.call("/metrics")[1], re.MULTILINE)
        return {worker: float(value) for worker, value in found}

    def close(self) -> None:
        children = self.workers() if self.process.poll() is None else []
        self.process.kill()
        self.process.wait(30)
        psutil.wait_procs(children, 60)
        self.thread.join(30)
        assert self.process.stderr is not None
        self.process.stderr.close()


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def fleet(minilm_folder: Path, tmp_path: Path) -> Iterator[Fleet]:
    running = Fleet(make_tiny(minilm_folder, tmp_path / MODEL, hidden=128, layers=2))
    try:
        running.start()
        yield running
    finally:
        running.close()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.model
def test_two_workers_share_die_come_back_and_stop(fleet: Fleet) -> None:
    for _ in range(6):
        assert fleet.call("/v1/embeddings", ["a", "b"])[0] == 200
    until(lambda: sum(fleet.metric("st_server_texts_total").values()) == 12)
    assert set(fleet.metric("st_server_texts_total").values()) == {6}  # each had its turns
    for worker in fleet.workers():
        assert KEY not in " ".join(worker.cmdline()) and KEY not in " ".join(worker.environ().values())

    victim = fleet.workers()[0]
    victim.kill()
    until(lambda: any("starting it again" in line for line in fleet.lines))
    for _ in range(6):  # the other one serves meanwhile
        assert fleet.call("/v1/embeddings", ["a"])[0] == 200
    until(lambda: sorted(fleet.metric("st_server_ready").values()) == [1, 1])
    assert sorted(fleet.metric("st_server_worker_starts").values()) == [1, 2]

    answers: list[int] = []
    texts = ["latency " * 50] * 600
    threads = [
        threading.Thread(target=lambda: answers.append(fleet.call("/v1/embeddings", texts)[0]))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    # The workers show each other their figures later than they change: both have answered, or have it in hand.
    until(lambda: sum(fleet.metric("st_server_unanswered_requests").values()) == 2 or len(answers) == 2)
    fleet.process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join(300)
    assert answers == [200, 200]
    assert fleet.process.wait(300) == 0
    assert fleet.lines[-1] == "stage: stopped"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.model
def test_a_killed_parent_leaves_no_worker(fleet: Fleet) -> None:
    workers = fleet.workers()
    assert len(workers) == 2
    fleet.process.kill()
    gone, alive = psutil.wait_procs(workers, 60)
    assert len(gone) == 2 and not alive


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_cannot_be_served_ends_them_all(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    done = subprocess.run(
        [sys.executable, "-m", "deploytool.st_server", "--model", str(tmp_path), "--workers", "2",
         "--device", "cpu", "--threads", "2", "--max-queue", "4096", "--port", "0"],
        capture_output=True, text=True, cwd=ROOT, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 8
    assert re.search(r"^fatal: .*no \*\.safetensors", done.stderr, re.MULTILINE)
    assert done.stderr.splitlines()[-1] == "stage: stopped"
