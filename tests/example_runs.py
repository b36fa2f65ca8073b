"""Runs for tests of reports: records with the figures of a small queue model, and the rows behind them."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from deploytool.records import (
    AnswerCheck,
    Cell,
    ClientProcess,
    Latency,
    NullCalibration,
    PhaseMemory,
    RunRecord,
    ServerSide,
    Target,
)
from deploytool.statistics import interval

NO_CARD = "no NVIDIA driver: libnvidia-ml.so.1 is not there"
Row = dict[str, Any]


def request_rows(grid: Iterable[tuple[int, int]], seconds: float = 5.0, seed: int = 7) -> Iterator[Row]:
    """Request events of a server that embeds a batch in 3 + 1.6 x batch ms, four batches at once."""
    chance = random.Random(seed)  # noqa: S311 - example data
    clock = 1_000_000_000
    for batch, concurrency in grid:
        service_ms = 3 + 1.6 * batch
        typical_ms = service_ms * max(1.0, concurrency / 4)
        for number in range(min(4000, int(seconds * 1000 / typical_ms * concurrency))):
            slow = 3.0 if chance.random() < 0.02 else 1.0
            latency_ms = typical_ms * chance.lognormvariate(0, 0.12) * slow
            yield {
                "cell": f"b{batch} c{concurrency}",
                "phase": "warmup" if number < 3 else "measure",
                "worker": "w0",
                "start_ns": clock + int(number * typical_ms / concurrency * 1e6),
                "latency_ns": int(latency_ms * 1e6),
                "service_ns": None,
                "status": 200,
                "error": None,
                "texts": batch,
                "tokens": batch * 21,
                "response_bytes": 2100 * batch,
            }
        clock += int((seconds + 1) * 1e9)


def cells_of(rows: Sequence[Row], seconds: float = 5.0) -> list[Cell]:
    """The cells that follow from the rows of the measured windows."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row["phase"] == "measure":
            found.setdefault(row["cell"], []).append(row)
    return [_cell(name, events, seconds) for name, events in found.items()]


def _cell(name: str, events: Sequence[Row], seconds: float) -> Cell:
    batch, concurrency = (int(part[1:]) for part in name.split())
    latencies: list[float] = sorted(event["latency_ns"] / 1e6 for event in events)

    def percentile(share: float) -> float:
        return latencies[max(0, math.ceil(share * len(latencies)) - 1)]

    return Cell(
        batch=batch,
        concurrency=concurrency,
        requests=len(events),
        duration_s=seconds,
        qps=len(events) / seconds,
        texts_per_s=len(events) * batch / seconds,
        tokens_per_s=len(events) * batch * 21 / seconds,
        latency_ms=Latency(
            p50=percentile(0.5),
            p90=percentile(0.9),
            p95=percentile(0.95),
            p99=percentile(0.99) if len(events) >= 368 else None,
            p999=percentile(0.999) if len(events) >= 3688 else None,
            max=latencies[-1],
            mean=sum(latencies) / len(latencies),
        ),
        latency_ci95_ms={
            name: found
            for name, percent in (("p50", 50.0), ("p90", 90.0), ("p95", 95.0), ("p99", 99.0))
            if (found := interval(latencies, percent)) is not None
        },
        vram_reason=NO_CARD,
        rss_peak_mib=780.0 + 2.5 * batch,
        response_bytes=2100 * batch,
        client_cpu_percent=11.5,
    )


def memory_rows(
    grid: Iterable[tuple[int, int]], *, card: bool = False, seconds: float = 5.0
) -> Iterator[Row]:
    """Ten readings a second: idle, loaded, then a phase for each cell."""
    chance = random.Random(3)  # noqa: S311 - example data
    phases = [("idle", 1.0, 0), ("loaded", 1.0, 0), *((f"load b{b} c{c}", seconds, b) for b, c in grid)]
    time_ns = 500_000_000
    for phase, length, batch in phases:
        for _ in range(int(length * 10)):
            time_ns += 100_000_000
            used = 18_200 + 45.0 * batch + chance.random() * 30 if phase != "idle" else 900.0
            yield {
                "time_ns": time_ns,
                "phase": phase,
                "device": 0 if card else None,
                "vram_used_mib": used if card else None,
                "vram_process_mib": used - 420 if card and phase != "idle" else None,
                "utilisation_percent": min(100.0, 20.0 + batch * 2 + chance.random() * 10) if card else None,
                "power_w": None,
                "rss_mib": 745 + 2.5 * batch + chance.random() * 4 if phase != "idle" else 310.0,
            }


GRID = [(batch, concurrency) for batch in (1, 8, 32) for concurrency in (1, 4, 16)]


def cpu_run(grid: Sequence[tuple[int, int]] = GRID) -> RunRecord:
    """A clean run on the CPU, nine cells."""
    return RunRecord(
        id="20260203-101100-7f3a",
        state="finished",
        started_at="2026-02-03T10:11:00+00:00",
        finished_at="2026-02-03T10:12:04+00:00",
        target=Target(
            url="http://127.0.0.1:30041",
            model="all-minilm-l6-v2",
            deployment="demo",
            engine="sentence-transformers",
            engine_version="5.1.0",
            profile="cpu",
            dtype="float32",
        ),
        request={
            "batch": sorted({batch for batch, _ in grid}),
            "concurrency": sorted({concurrency for _, concurrency in grid}),
            "duration_s": 5.0,
            "warmup_s": 1.0,
            "corpus": "built in",
            "encoding": "float",
            "seed": 1,
        },
        manifest="sha256:5b1e9d0c",
        environment={
            "tool": "0.1.0",
            "python": "3.11.2",
            "cpu": {"model": "AMD EPYC 9554", "cores": 2},
            "memory_total_mib": 7936,
            "gpus": [],
        },
        cells=cells_of(list(request_rows(grid))),
        memory=[
            PhaseMemory(phase="idle", vram_reason=NO_CARD, rss_peak_mib=310, samples=10),
            PhaseMemory(phase="loaded", vram_reason=NO_CARD, rss_peak_mib=749, samples=10),
            *(
                PhaseMemory(
                    phase=f"load b{batch} c{concurrency}",
                    vram_reason=NO_CARD,
                    rss_peak_mib=749 + 2.5 * batch,
                    samples=50,
                )
                for batch, concurrency in grid
            ),
        ],
    )


def card_run() -> RunRecord:
    """A run on a card that did not go well: errors, a failed, an interrupted, a suspect and a void cell."""
    record = cpu_run()
    cells = [
        cell.model_copy(
            update={
                "vram_peak_mib": 18_230.0 + 45 * cell.batch,
                "vram_reason": None,
                "power_peak_w": 148.0,
                "energy_j_per_1m_tokens": 5200.0 / cell.batch,
                "gpu_utilisation_percent": 71.0,
                "answers": AnswerCheck(
                    answers=8,
                    vectors=8 * cell.batch,
                    dimensions=2560,
                    cosine_min=0.999981,
                    norm_min=1.0,
                    norm_max=1.0,
                    tokens_counted=168 * cell.batch,
                    tokens_intended=170 * cell.batch,
                    other_encoding_reason="asked for base64, the server answered float",
                ),
                "server": ServerSide(
                    scrapes=5,
                    queue_mean=0.4 * cell.concurrency,
                    queue_max=float(cell.concurrency),
                    running_mean=3.2,
                    running_max=4.0,
                    tokens_per_s=cell.tokens_per_s,
                ),
                "client": [ClientProcess(cpu_percent=11.5, lag_p50_ms=0.05, lag_p99_ms=0.21, lag_max_ms=1.4)],
                "null": NullCalibration(
                    ceiling_qps=4100, added_ms=0.21, clients=cell.concurrency, response_bytes=2100
                ),
            }
        )
        for cell in record.cells
    ]
    cells[3] = cells[3].model_copy(update={"errors": {"timeout": 3, "http_503": 41}})
    cells[5] = Cell.model_validate(
        cells[5].model_dump()
        | {"validity": {"verdict": "suspect", "reasons": ["throughput drifted by 12 % within the window"]}}
    )
    cells[6] = cells[6].model_copy(
        update={
            "vram_peak_mib": None,
            "vram_reason": "NVML lost the card (GPU is lost)",
            "notes": ["texts were cut to 256 tokens"],
        }
    )
    cells[7] = cells[7].model_copy(
        update={"state": "interrupted", "reason": "Ctrl-C", "notes": ["texts were cut to 256 tokens"]}
    )
    cells[8] = Cell(
        batch=32,
        concurrency=16,
        state="failed",
        reason="the server ended with signal 9 (SIGKILL)",
        requests=0,
        errors={"refused": 1200},
        duration_s=0.4,
        qps=0,
        texts_per_s=0,
        latency_ms=Latency(),
        vram_reason="NVML lost the card (GPU is lost)",
    )
    cells[2] = Cell.model_validate(
        cells[2].model_dump()
        | {"validity": {"verdict": "void", "reasons": ["the load generator used 97 % of a core"]}}
    )
    target = record.target.model_copy(
        update={"engine": "sglang", "engine_version": "0.5.23", "profile": "a10g", "dtype": "float16",
                "model": "qwen3-4b", "deployment": "qwen", "model_revision": "5cf2132a"}
    )  # fmt: skip
    return record.model_copy(
        update={
            "id": "20260203-113000-c0de",
            "state": "interrupted",
            "reason": "Ctrl-C",
            "target": target,
            "cells": cells,
            "memory": [
                PhaseMemory(phase="idle", vram_peak_mib=900, rss_peak_mib=310, samples=10),
                PhaseMemory(
                    phase="loaded",
                    vram_peak_mib=18_230,
                    vram_process_peak_mib=17_810,
                    rss_peak_mib=749,
                    samples=10,
                ),
                PhaseMemory(
                    phase="load b32 c4", vram_peak_mib=19_690, vram_process_peak_mib=19_270, samples=50
                ),
            ],
        }
    )


def open_run() -> RunRecord:
    """An open loop: two batches, four rates, the highest of which the server does not keep up with."""
    grid = [(batch, place) for batch in (1, 8) for place in (1, 2, 4, 8)]
    record = cpu_run(grid)
    cells = [
        cell.model_copy(
            update={
                "mode": "open", "rate": 50.0 * cell.concurrency, "arrivals": "poisson", "concurrency": 256,
                "dropped": 40 if cell.concurrency == 8 else 0,
                "errors": {"dropped": 40} if cell.concurrency == 8 else {},
            }
        )
        for cell in record.cells
    ]  # fmt: skip
    asked = record.request | {
        "rate": [50.0, 100.0, 200.0, 400.0],
        "concurrency": [1, 4, 16],
        "in_flight": 256,
    }
    return record.model_copy(update={"id": "20260203-140000-0bed", "cells": cells, "request": asked})


def empty_run() -> RunRecord:
    """A run that ended before its first cell did."""
    record = cpu_run()
    return record.model_copy(
        update={"id": "20260203-120000-dead", "state": "failed",
                "reason": "the endpoint refused every request", "finished_at": None,
                "cells": [], "memory": [], "environment": {}}
    )  # fmt: skip


LARGE_GRID = [(2**power, concurrency) for power in range(10) for concurrency in range(1, 21)]


def large_run() -> RunRecord:
    """200 cells."""
    return cpu_run(LARGE_GRID)


HOSTILE = "<script>alert(1)</script><b a='\"'>&amp;|`*\x1b[31m\x00\u202e]]>"


def hostile_run() -> RunRecord:
    """A run whose every text comes from someone who means harm."""
    record = cpu_run([(1, 1), (1, 4)])
    cells = [
        cell.model_copy(update={"errors": {HOSTILE: 3}, "notes": [HOSTILE], "state": "failed",
                                "reason": HOSTILE, "vram_reason": HOSTILE})
        for cell in record.cells
    ]  # fmt: skip
    return record.model_copy(
        update={
            "id": HOSTILE,
            "state": "failed",
            "reason": HOSTILE,
            "target": Target(url=HOSTILE, model=HOSTILE, deployment=HOSTILE, engine=HOSTILE, profile=HOSTILE,
                             dtype=HOSTILE, engine_version=HOSTILE, model_revision=HOSTILE),
            "request": {**record.request, HOSTILE: HOSTILE, "corpus": HOSTILE},
            "manifest": HOSTILE,
            "environment": {HOSTILE: {HOSTILE: [HOSTILE]}},
            "cells": [*cells, record.cells[0].model_copy(update={"batch": 2, "notes": [HOSTILE]})],
            "memory": [PhaseMemory(phase=HOSTILE, vram_reason=HOSTILE, rss_peak_mib=5, samples=1)],
            "started_at": HOSTILE,
        }
    )  # fmt: skip
