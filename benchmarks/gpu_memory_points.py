"""What single forward passes take on the card, by the server's own torch backend.

Reads {"folder", "device", "dtype", "gpu", "points": [[batch, length], ...]} on stdin; prints one JSON line for
the loaded model ("rest") and one for each point. Before each, the allocator gives back what it kept, so that
NVML's figure afterwards is that point's peak. All in MiB; null where there is no card.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from deploytool.st_server import config
from deploytool.st_server.backends import torch_backend
from deploytool.telemetry.sampler import MemorySampler

MIB = 2**20
READING_S = 0.12


def main() -> None:
    job = json.load(sys.stdin)
    points: list[tuple[int, int]] = [(batch, length) for batch, length in job["points"]]
    longest, most = max(length for _, length in points), max(batch * length for batch, length in points)
    given = config.parse(
        ["--model", job["folder"], "--device", job["device"], "--dtype", job["dtype"],
         "--max-length", str(longest), "--max-batch-tokens", str(max(most, longest))]
    )  # fmt: skip
    backend = torch_backend.load(given, Path(job["folder"]), lambda _: None)
    on_card = given.device.startswith("cuda")
    _forward(backend, 2, min(16, longest), even=False)
    _say({"at": "rest"} | _now(on_card, job["gpu"]))
    for batch, length in points:
        for even in (False, True) if batch > 1 else (True,):
            _say(_point(backend, batch, length, even, on_card, job["gpu"]))


def _point(
    backend: torch_backend.TorchBackend, batch: int, length: int, even: bool, on_card: bool, gpu: int
) -> dict[str, Any]:
    found: dict[str, Any] = {"at": "point", "batch": batch, "length": length, "even": even}
    if on_card:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        found["before"] = round(torch.cuda.memory_allocated() / MIB, 1)
    try:
        began = time.perf_counter()
        _forward(backend, batch, length, even=even)
        found["ms"] = round((time.perf_counter() - began) * 1000, 1)
    except Exception as error:  # an out-of-memory is a result
        return found | {"error": f"{type(error).__name__}: {error}"[:200]}
    if on_card:
        found["peak"] = round(torch.cuda.max_memory_allocated() / MIB, 1)
    return found | _now(False, gpu) | _reserved(on_card)


def _forward(backend: torch_backend.TorchBackend, batch: int, length: int, *, even: bool) -> None:
    """`even`: all of one length, so that no mask is made; else the last text is a little shorter."""
    rows: list[Sequence[int]] = [[5] * length for _ in range(batch)]
    if not even and batch > 1:
        rows[-1] = rows[-1][: max(length - 8, 1)]
    backend.embed(rows, alone=False)


def _now(empty_first: bool, gpu: int) -> dict[str, Any]:
    if empty_first:
        torch.cuda.empty_cache()
    sampler = MemorySampler(os.getpid(), (gpu,), interval_s=0.05)
    sampler.start("now")
    time.sleep(READING_S)
    sampler.stop()
    seen = sampler.peak("now")
    found = {"process": seen.vram_process_peak_mib, "card": seen.vram_peak_mib, "reason": seen.vram_reason}
    return found | (_reserved(True) if empty_first else {})


def _reserved(on_card: bool) -> dict[str, Any]:
    if not on_card:
        return {"allocated": None, "reserved": None}
    return {
        "allocated": round(torch.cuda.memory_allocated() / MIB, 1),
        "reserved": round(torch.cuda.memory_reserved() / MIB, 1),
    }


def _say(document: dict[str, Any]) -> None:
    print(json.dumps(document), flush=True)


if __name__ == "__main__":
    main()
