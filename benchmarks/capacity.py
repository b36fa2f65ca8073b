"""The capacity search against the full grid, on a server of known capacity: `make bench-capacity`.

The server works on SLOTS requests at once, WORK_MS each. The grid tries rates 5 % apart, from a quarter of
the answer to two in a row that break, each until it is ruled on with the search's own tests; it is told where
to look, which a real one is not. To reach: the same answer within 5 %, with at most a quarter of the
requests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from deploytool.capacity.judging import Tally, judge
from deploytool.capacity.search import LOOKS, samples_of
from deploytool.comparison.sides import read_side
from deploytool.store import Store
from deploytool.thresholds import parse_slo

ROOT = Path(__file__).resolve().parent.parent
SLOTS, WORK_MS = 8, 20  # 400 requests/s
SLO = "p99<=120ms,errors<=1%"
STEP = 1.05
FIRST_SHARE = 0.25
MOST_BREAKS = 2


def main() -> int:
    server = subprocess.Popen(
        [sys.executable, str(ROOT / "tests/stand_ins/reference_server.py"), "--answers", f"ok@{WORK_MS}",
         "--slots", str(SLOTS)],
        stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    url = server.stdout.readline().strip() if server.stdout else ""
    try:
        with tempfile.TemporaryDirectory() as home:
            os.environ["DEPLOYTOOL_HOME"] = home
            return compared(url)
    finally:
        server.kill()
        server.wait()


def compared(url: str) -> int:
    started = time.monotonic()
    found = tool("capacity", url, "--slo", SLO, "--json")
    searched_s = time.monotonic() - started
    first = found["max_qps"] * FIRST_SHARE
    started = time.monotonic()
    best, requests = grid(url, first)
    grid_s = time.monotonic() - started
    print(f"server: {SLOTS} slots of {WORK_MS} ms, at most {1000 * SLOTS / WORK_MS:.0f}/s; SLO {SLO}")
    print(f"search: {found['max_qps']:.4g}/s, {found['requests']:,} requests, {searched_s:.0f} s")
    print(f"grid:   {best:.4g}/s, {requests:,} requests, {grid_s:.0f} s, from {first:.4g}/s by 5 %")
    apart = found["max_qps"] / best - 1 if best else float("inf")
    share = found["requests"] / requests
    good = abs(apart) <= 0.05 and share <= 0.25
    print(f"apart {100 * apart:+.1f} % (to reach: 5), {100 * share:.0f} % of the requests (to reach: 25)")
    return 0 if good else 1


def grid(url: str, first: float) -> tuple[float, int]:
    """The highest rate of the grid that holds, and the requests of all: a break below it was a disturbance."""
    best, requests, breaks = 0.0, 0, 0
    slo = parse_slo(SLO)
    rate = first
    while breaks < MOST_BREAKS:
        windows = []
        for look in range(len(LOOKS["confirm"])):
            seconds = f"{max(3.0, samples_of('confirm', slo) / rate):.1f}s"
            options = ["--batch", "1", "--warmup", "1s", "--duration", seconds, "--seed", str(look + 1)]
            run = tool("load", url, "--rate", f"{rate:.4g}", *options, "--json")
            with Store() as store:
                side = read_side(store, [run["id"]])
            windows += list(side.requests.values())
            requests += sum(len(window) + len(window.failed_s) for window in windows[-1:])
            verdict = judge(windows, slo, Tally()) if windows else None
            if verdict is not None and verdict.ruling != "undecided":
                break
        holds = verdict is not None and verdict.ruling == "holds"
        print(f"  grid {rate:.4g}/s: {verdict.ruling if verdict else 'void'}", file=sys.stderr)
        breaks = 0 if holds else breaks + 1
        best = rate if holds else best
        rate *= STEP
    return best, requests


def tool(*arguments: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "deploytool", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        check=False,
    )
    return json.loads(done.stdout)


if __name__ == "__main__":
    sys.exit(main())
