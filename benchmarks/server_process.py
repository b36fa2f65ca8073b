"""A server of `make bench-server`: started, watched (processors, memory, the card's memory), loaded, stopped."""

from __future__ import annotations

import json
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import psutil

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

from deploytool.telemetry import nvml  # noqa: E402

MODEL = "all-minilm-l6-v2"
START_S = 300
SAMPLE_S = 0.02
WARM_S = 1.5
MIB = 1 << 20


class Figures(NamedTuple):
    """Of one cell. `cpu`: processors that the server kept busy; `client`: those of the load client."""

    texts_per_s: float
    p50_ms: float
    p99_ms: float
    cpu: float
    client: float
    rss_mib: float
    gpu_peak_mib: float | None
    errors: dict[str, int]


@dataclass(frozen=True)
class Server:
    """A ready one."""

    process: subprocess.Popen[bytes]
    port: int
    card: Card

    def cpu_s(self) -> float:
        """Processor seconds of all its processes so far."""
        return float(sum(times.user + times.system for times in _each(self.process.pid, "cpu_times")))

    def rss_mib(self) -> float:
        return float(sum(info.rss for info in _each(self.process.pid, "memory_info")) / MIB)

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            found: bytes = answer.read()
            return found


class Card:
    """What the first card holds beyond what it held before the run, followed by a thread. No card: None."""

    def __init__(self) -> None:
        found = nvml.connect()
        self._session = found if isinstance(found, nvml.Session) else None
        self._before = self._used() or 0.0
        self._peak = 0.0
        if self._session is not None:
            threading.Thread(target=self._follow, daemon=True).start()

    def reset(self) -> None:
        self._peak = 0.0

    @property
    def peak_mib(self) -> float | None:
        return None if self._session is None else self._peak

    def _used(self) -> float | None:
        memory = self._session.memory(0).value if self._session is not None else None
        return memory.used_mib if memory is not None else None

    def _follow(self) -> None:
        while True:
            self._peak = max(self._peak, (self._used() or 0.0) - self._before)
            time.sleep(SAMPLE_S)


@contextmanager
def running(argv: Sequence[str], card: Card) -> Iterator[Server]:
    """The server of `argv`, in which {port} is a free port. SystemExit with its last lines where it fails."""
    port = free_port()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [part.replace("{port}", str(port)) for part in argv],
            stdout=subprocess.DEVNULL, stderr=log, cwd=ROOT,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + START_S
            while not ready(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    tail = log.read().decode(errors="replace")[-2000:]
                    raise SystemExit(f"the server did not start: {' '.join(argv)}\n{tail}")
                time.sleep(0.1)
            yield Server(process, port, card)
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


class Slice(NamedTuple):
    """What one stretch of a cell's load gave; cells are made of several, with others' in between."""

    latencies_ms: list[float]
    errors: dict[str, int]
    seconds: float
    server_cpu: float  # processors
    client_cpu: float
    rss_mib: float
    gpu_peak_mib: float | None

    @property
    def requests_per_s(self) -> float:
        return len(self.latencies_ms) / self.seconds


def cell(server: Server, bodies: Sequence[str], clients: int, size: int, seconds: float) -> Figures:
    """A closed loop of `clients`, each with one request of `size` texts at a time."""
    return figures([loaded(server, bodies, clients, seconds)], size)


def loaded(
    server: Server, bodies: Sequence[str], clients: int, seconds: float, warm_s: float = WARM_S
) -> Slice:
    job = {"port": server.port, "bodies": bodies, "clients": clients, "seconds": seconds, "warmup_s": warm_s}
    server.card.reset()
    began, cpu = time.perf_counter(), server.cpu_s()
    answer = load(job)
    cpu, wall = server.cpu_s() - cpu, time.perf_counter() - began
    return Slice(
        answer["latencies_ms"], answer["errors"], seconds, cpu / wall, answer["cpu_s"] / seconds,
        server.rss_mib(), server.card.peak_mib,
    )  # fmt: skip


def figures(slices: Sequence[Slice], size: int) -> Figures:
    """Of slices of the same length."""
    latencies = sorted(latency for part in slices for latency in part.latencies_ms)
    errors: Counter[str] = Counter()
    for part in slices:
        errors.update(part.errors)
    held = [part.gpu_peak_mib for part in slices if part.gpu_peak_mib is not None]
    return Figures(
        texts_per_s=len(latencies) * size / sum(part.seconds for part in slices),
        p50_ms=percentile(latencies, 0.5),
        p99_ms=percentile(latencies, 0.99),
        cpu=fmean(part.server_cpu for part in slices),
        client=fmean(part.client_cpu for part in slices),
        rss_mib=max(part.rss_mib for part in slices),
        gpu_peak_mib=max(held, default=None),
        errors=dict(errors),
    )


def load(job: dict[str, Any]) -> dict[str, Any]:
    """Run the load client over a job; see server_load.py."""
    done = subprocess.run(
        [sys.executable, str(HERE / "server_load.py")], input=json.dumps({"host": "127.0.0.1", **job}),
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def bodies(texts: Sequence[str], size: int, seed: int) -> list[str]:
    """Requests of `size` texts each."""
    mixed = random.Random(seed).sample(texts, len(texts))  # noqa: S311 - a load
    parts = [mixed[at : at + size] for at in range(0, len(mixed), size)]
    # As `encode` does: a tokenizer of bytes makes more of these texts than a small model takes.
    return [json.dumps({"model": MODEL, "input": part, "truncate": True}) for part in parts]


def percentile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _each(pid: int, question: str) -> Iterator[Any]:
    """The answers of a process and its children; one that ends meanwhile is left out."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                yield getattr(one, question)()
