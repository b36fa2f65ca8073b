"""What our load generator can do and how true it is, beside others: `make bench-client` prints the tables.

Each client is pinned to one core (where there are two or more), the reference server in C to another. A
figure is of one run of a few seconds: run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from stand_ins import reference_c  # noqa: E402

from deploytool.loadgen import child, measured  # noqa: E402
from deploytool.loadgen.plan import CellPlan, Outcome  # noqa: E402

CORES = sorted(os.sched_getaffinity(0))


class Work(NamedTuple):
    """What is sent and answered."""

    name: str
    clients: int
    texts: int
    dimensions: int
    script: str = ""


class Figures(NamedTuple):
    """Of one run. `per_core_second`: requests for a second of the client's CPU."""

    rps: float
    per_core_second: float | None
    p50_ms: float | None
    p99_ms: float | None


SPEED = (
    Work("32 clients, 1 text of 384", 32, 1, 384),
    Work("8 clients, 32 texts of 2560", 8, 32, 2560),
)
TRUTH = (
    Work("10 ms", 8, 8, 384, "10"),
    Work("10 ms, 2 % 200 ms", 8, 8, 384, "10*49,200"),
)
Client = Callable[[str, Work, Path, float], Figures]


def ours(url: str, work: Work, folder: Path, seconds: float) -> Figures:
    """The load process of `deploytool load`, with every request recorded."""
    bodies = folder / "bodies"
    bodies.write_bytes(body(work))
    plan = CellPlan(
        batch=work.texts, concurrency=work.clients, host=url, path="/v1/embeddings", warmup_s=0.5,
        duration_s=seconds, timeout_s=30, bodies=bodies, folder=folder / "cell", checks=8,
    )  # fmt: skip
    outcome = child.run_cell(plan, None, lambda _: None)
    found = measured.read_samples([plan.samples(0)])
    return figures_of(outcome, found)


def figures_of(outcome: Outcome, found: measured.Samples) -> Figures:
    if outcome.state != "done" or outcome.window is None:
        raise SystemExit(f"our own load failed: {outcome.reason}")
    start, end = outcome.window
    inside = sorted(
        latency / 1e6
        for began, latency, error in zip(found.start_ns, found.latency_ns, found.error, strict=True)
        if start <= began < end and not error
    )
    seconds = (end - start) / 1e9
    cpu = outcome.client[0].cpu_percent or 0.0
    return Figures(len(inside) / seconds, 100 * len(inside) / seconds / cpu, *tails(inside))


def plain_locust(kind: str) -> Client:
    def run(url: str, work: Work, folder: Path, seconds: float) -> Figures:
        (folder / "body").write_bytes(body(work))
        out = folder / "out.json"
        subprocess.run(
            [sys.executable, "-m", "locust", "-f", str(ROOT / "benchmarks" / "plain_locust.py"), "--headless",
             "--host", url, "-u", str(work.clients), "-r", str(work.clients), "-t", f"{round(seconds)}s",
             "--only-summary", "--loglevel", "ERROR"],
            cwd=folder, check=True, capture_output=True,
            env={**os.environ, "BENCH_USER": kind, "BENCH_OUT": str(out), "BENCH_BODY": str(folder / "body")},
        )  # fmt: skip
        got = json.loads(out.read_text())
        return Figures(
            got["requests"] / got["seconds"], got["requests"] / got["cpu_s"], got["p50_ms"], got["p99_ms"]
        )

    return run


def wrk(url: str, work: Work, folder: Path, seconds: float) -> Figures:
    script = folder / "post.lua"
    script.write_text(
        f"wrk.method = 'POST'\nwrk.headers['Content-Type'] = 'application/json'\n"
        f"wrk.body = [==[{body(work).decode().strip()}]==]\n"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        ["wrk", "-t1", f"-c{work.clients}", f"-d{round(seconds)}s", "--latency", "-s", str(script),
         f"{url}/v1/embeddings"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    requests = float(found(r"(\d+) requests in", done.stdout))
    return Figures(
        float(found(r"Requests/sec:\s+([\d.]+)", done.stdout)), requests / cpu,
        in_ms(found(r"50%\s+(\S+)", done.stdout)), in_ms(found(r"99%\s+(\S+)", done.stdout)),
    )  # fmt: skip


CLIENTS: dict[str, Client] = {
    "deploytool": ours,
    "wrk": wrk,
    "locust FastHttpUser": plain_locust("fast"),
    "locust HttpUser": plain_locust("http"),
}
OTHERS = ("genai-bench", "aiperf")


def body(work: Work) -> bytes:
    text = "The library opens its doors again after the long renovation."
    request = {"model": "reference", "input": [text] * work.texts, "encoding_format": "float"}
    return json.dumps(request).encode() + b"\n"


def found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise SystemExit(f"no {pattern!r} in:\n{text}")
    return match[1]


def in_ms(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[unit]


def tails(ordered: list[float]) -> tuple[float, float]:
    return ordered[math.ceil(len(ordered) * 0.5) - 1], ordered[math.ceil(len(ordered) * 0.99) - 1]


def run(client: Client, work: Work, seconds: float) -> tuple[Figures, list[tuple[int, int]], float]:
    """One client at a fresh server: its figures, the server's own record, seconds to the first request."""
    with tempfile.TemporaryDirectory() as folder:
        if len(CORES) > 1:
            os.sched_setaffinity(0, {CORES[-1]})
        server = reference_c.start(Path(folder) / "record", work.texts, work.dimensions, work.script)
        if len(CORES) > 1:
            os.sched_setaffinity(0, {CORES[0]})
        try:
            began_ns = time.monotonic_ns()
            figures = client(server.url, work, Path(folder), seconds)
        finally:
            record = server.end()
        return figures, record, (record[0][0] - began_ns) / 1e9 if record else math.nan


def speed(seconds: float) -> None:
    for work in SPEED:
        print(f"\n{work.name}")
        print(f"{'':22}{'requests/s':>12}{'per core-s':>12}{'x FastHttp':>12}{'first, s':>10}")
        rows = {}
        for name, client in CLIENTS.items():
            if name == "wrk" and not shutil.which("wrk"):
                continue
            rows[name] = run(client, work, seconds)
        base = rows["locust FastHttpUser"][0].per_core_second or math.nan
        for name, (figures, _, first_s) in rows.items():
            rate = figures.per_core_second or math.nan
            print(f"{name:22}{figures.rps:12,.0f}{rate:12,.0f}{rate / base:12.2f}{first_s:10.2f}")
        for name in ("wrk", *OTHERS):
            if not shutil.which(name):
                print(f"{name:22}{'not installed':>24}")


def truth(seconds: float) -> None:
    for work in TRUTH:
        print(f"\nserver: {work.name}; P50 and P99 in ms: its own, said")
        for name, client in CLIENTS.items():
            if name == "wrk" and not shutil.which("wrk"):
                continue
            figures, record, _ = run(client, work, seconds)
            own = tails(sorted((answered - received) / 1e6 for received, answered in record))
            print(
                f"{name:22}P50 {own[0]:8.2f} {figures.p50_ms or math.nan:8.2f}"
                f"    P99 {own[1]:8.2f} {figures.p99_ms or math.nan:8.2f}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    if reference_c.compiled() is None:
        raise SystemExit("needs a C compiler (gcc) for the reference server")
    print(f"{len(CORES)} cores; load average {os.getloadavg()[0]:.1f}: much of it is noise on a busy machine")
    speed(options.seconds)
    truth(options.seconds)


if __name__ == "__main__":
    main()
