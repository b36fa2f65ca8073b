"""The Locust clients that everybody writes, for comparison: they send, check nothing and parse nothing.

BENCH_USER: fast or http. BENCH_OUT: where requests, seconds, CPU seconds and percentiles go, as JSON.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from locust import FastHttpUser, HttpUser, constant, events, task

BODY = Path(os.environ["BENCH_BODY"]).read_bytes()
HEADERS = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
BASE: Any = FastHttpUser if os.environ["BENCH_USER"] == "fast" else HttpUser
BEGAN: dict[str, float] = {}


class Plain(BASE):  # type: ignore[misc]
    """One request after the other."""

    wait_time = constant(0)

    @task  # type: ignore[untyped-decorator]
    def embed(self) -> None:
        self.client.post("/v1/embeddings", data=BODY, headers=HEADERS)


@events.spawning_complete.add_listener  # type: ignore[untyped-decorator]
def begin(**_: Any) -> None:
    BEGAN.setdefault("wall", time.monotonic())
    BEGAN.setdefault("cpu", time.process_time())


@events.test_stopping.add_listener  # type: ignore[untyped-decorator]
def finish(environment: Any, **_: Any) -> None:
    total = environment.stats.total
    document = {
        "requests": total.num_requests,
        "failures": total.num_failures,
        "seconds": time.monotonic() - BEGAN["wall"],
        "cpu_s": time.process_time() - BEGAN["cpu"],
        "p50_ms": total.get_response_time_percentile(0.5),
        "p99_ms": total.get_response_time_percentile(0.99),
    }
    Path(os.environ["BENCH_OUT"]).write_text(json.dumps(document))
