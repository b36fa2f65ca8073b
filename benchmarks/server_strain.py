"""Overload and soak of a server: does it keep its throughput, its latency and its memory?"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

import server_process
from server_process import HERE, Server

QUEUE = 256  # texts
FACTOR = 10
PEAK_S, AFTER_S = 10.0, 4.0
SETTLED = 0.25  # of a soak: what comes before is warm-up


def overload(server: Server, texts: Sequence[str], seconds: float) -> None:
    """Ten times the rate of its peak; prints goodput, the latency of the accepted, and the answers.

    The peak is measured before and afterwards: the processor may have changed its speed meanwhile.
    """
    singles = server_process.bodies(texts, 1, 7)
    before = server_process.cell(server, singles, 1, 1, AFTER_S)
    peak = server_process.cell(server, singles, 64, 1, PEAK_S)
    job = {"port": server.port, "bodies": singles, "rate": FACTOR * peak.texts_per_s, "seconds": seconds}
    done = subprocess.run(
        [sys.executable, str(HERE / "server_flood.py")], input=json.dumps(job), stdout=subprocess.PIPE,
        text=True, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout)
    after = server_process.cell(server, singles, 1, 1, AFTER_S)
    again = server_process.cell(server, singles, 64, 1, PEAK_S)
    most = (peak.texts_per_s + again.texts_per_s) / 2
    latencies = sorted(found["latencies_ms"])
    goodput = found["good"] / seconds
    queue_ms = QUEUE / goodput * 1000 if goodput else float("nan")
    p99 = server_process.percentile(latencies, 0.99)
    print(
        f"peak {peak.texts_per_s:.0f} texts/s, afterwards {again.texts_per_s:.0f}; "
        f"offered {found['sent'] / seconds:.0f}/s for {seconds:.0f} s"
    )
    print(f"goodput {goodput:.0f} texts/s: {goodput / most:.2f} of the mean peak")
    print(
        f"accepted: P50 {server_process.percentile(latencies, 0.5):.0f} ms, "
        f"P99 {p99:.0f} ms: {p99 / queue_ms:.2f} x the {queue_ms:.0f} ms that a full queue of {QUEUE} takes"
    )
    print(
        f"answers {found['statuses']}, 429 with Retry-After {found['with_retry_after']}, lost {found['lost']}"
    )
    print(
        f"client: {found['cpu_s'] / seconds:.2f} processors of the same machine ({peak.client:.2f} at the peak), "
        f"up to {found['connections']} connections"
    )
    print(f"one client before {before.p50_ms:.1f} ms, at once afterwards {after.p50_ms:.1f} ms (P50)")


def soak(server: Server, texts: Sequence[str], seconds: float) -> None:
    """A mixed load; prints the slope of the memory after a warm-up."""
    samples: list[tuple[float, float]] = []
    ending = threading.Event()
    began = time.monotonic()

    def follow() -> None:
        while not ending.wait(1.0):
            samples.append((time.monotonic() - began, server.rss_mib()))

    follower = threading.Thread(target=follow)
    follower.start()
    requests = 0
    try:
        while (left := seconds - (time.monotonic() - began)) > 2:
            for clients, size in ((8, 1), (8, 8), (2, 64)):
                found = server_process.cell(
                    server, server_process.bodies(texts, size, requests), clients, size, min(10.0, left / 3)
                )
                requests += int(found.texts_per_s * min(10.0, left / 3) / size)
                if found.errors:
                    print(f"errors {found.errors}")
    finally:
        ending.set()
        follower.join()
    settled = [sample for sample in samples if sample[0] >= SETTLED * seconds]
    print(
        f"soak of {seconds:.0f} s, about {requests} requests: {settled[0][1]:.0f} -> {settled[-1][1]:.0f} MiB "
        f"after the warm-up, highest {max(mib for _, mib in settled):.0f} MiB, "
        f"slope {_slope(settled) * 60:+.2f} MiB a minute"
    )


def _slope(samples: Sequence[tuple[float, float]]) -> float:
    """Least squares, in MiB a second."""
    count = len(samples)
    mean_t = sum(t for t, _ in samples) / count
    mean_m = sum(m for _, m in samples) / count
    spread = sum((t - mean_t) ** 2 for t, _ in samples)
    return sum((t - mean_t) * (m - mean_m) for t, m in samples) / spread if spread else 0.0
