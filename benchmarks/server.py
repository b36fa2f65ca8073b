"""The SentenceTransformers server beside its offline limit and a hand-written server: `make bench-server`.

One run, one table: the same model and texts (6 to 64 words) for every row. The load client is a process of
its own but takes its share of the same processors; its part is printed. Ratios within the run are what
counts: other work on the machine moves all rows.

On a card: `python benchmarks/server.py --device cuda --dtype bfloat16 --model FOLDER --seconds 3`, with the
memory that NVML saw beyond what the card held before the run. `--variant "--lanes 2"` adds rows of the server
with further flags of its own.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence

import server_process
import server_strain
from server_process import HERE, MODEL, Card, Figures
from server_texts import mixed_texts, packaged

CELLS = ((1, 1), (32, 1), (8, 8), (4, 32), (64, 1))
CARD_CELLS = (*CELLS, (16, 64))  # a card is not full with 128 texts
KINDS = ("torch", "onnx", "openvino")
HEAD = (
    f"{'':24}{'clients':>8}{'texts':>6}{'texts/s':>9}{'P50 ms':>9}{'P99 ms':>9}{'cpu':>6}{'client':>8}"
    f"{'RSS MiB':>9}{'GPU MiB':>9}{'of offline':>12}{'x by hand':>11}"
)
Rates = dict[tuple[int, int], float]
Limit = dict[str, float]


def main() -> None:
    given = _arguments()
    on_cpu = given.device == "cpu"
    texts = mixed_texts(800 if on_cpu else 4096)
    card = Card()
    with tempfile.TemporaryDirectory() as cache:
        os.environ.setdefault("DEPLOYTOOL_CACHE", cache)
        os.environ["HF_HUB_OFFLINE"] = "1"
        print(f"{os.cpu_count()} processors, load average {os.getloadavg()[0]:.1f} before the run")
        print(f"model {given.model}, {given.dtype} on {given.device}")
        kinds = [kind for kind in given.backends if _installed(kind) and (on_cpu or kind == "torch")]
        if given.overload or given.soak:
            for kind in kinds:
                for flags in given.variant or [""]:
                    _strain(kind, flags, given, card, texts)
            return
        limits = {kind: _offline(kind, given, texts[:256] if on_cpu else texts, card) for kind in kinds}
        print(f"\n{HEAD}")
        by_hand = _rows("by hand", _by_hand(given), given, card, texts, limits.get("torch"), {})
        for kind in kinds:
            for flags in ("", *given.variant):
                name = f"ours, {kind} {flags}".strip()
                _rows(name, _ours(kind, given, flags), given, card, texts, limits[kind], by_hand)
    vllm = importlib.util.find_spec("vllm")
    print(f"{'vLLM':24}{'not installed' if vllm is None else 'installed, not measured here'}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="a folder (default: the packaged all-MiniLM-L6-v2)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--dtype", default="float32", choices=["float32", "float16", "bfloat16"])
    parser.add_argument("--seconds", type=float, default=6.0, help="measured per cell")
    parser.add_argument("--backends", nargs="*", default=list(KINDS), choices=KINDS)
    parser.add_argument("--variant", action="append", default=[], metavar="FLAGS", help="of our server")
    parser.add_argument(
        "--overload", type=float, metavar="SECONDS", help="10 x its peak for so long, no table"
    )
    parser.add_argument("--soak", type=float, metavar="SECONDS", help="memory over so long, no table")
    given = parser.parse_args()
    given.model = given.model or packaged()
    return given


def _strain(kind: str, flags: str, given: argparse.Namespace, card: Card, texts: Sequence[str]) -> None:
    print(f"\nours, {kind} {flags}")
    if given.overload:
        queue = ["--max-queue", str(server_strain.QUEUE)]
        with server_process.running([*_ours(kind, given, flags), *queue], card) as server:
            server_strain.overload(server, texts, given.overload)
    if given.soak:
        with server_process.running(_ours(kind, given, flags), card) as server:
            server_strain.soak(server, texts, given.soak)


def _rows(
    name: str,
    argv: Sequence[str],
    given: argparse.Namespace,
    card: Card,
    texts: Sequence[str],
    limit: Limit | None,
    by_hand: Rates,
) -> Rates:
    rates: Rates = {}
    with server_process.running(argv, card) as server:
        for clients, size in CELLS if given.device == "cpu" else CARD_CELLS:
            bodies = server_process.bodies(texts, size, clients * 100 + size)
            found = server_process.cell(server, bodies, clients, size, given.seconds)
            rates[clients, size] = found.texts_per_s
            print(_line(name, (clients, size), found, limit, by_hand), flush=True)
    return rates


def _line(name: str, at: tuple[int, int], found: Figures, limit: Limit | None, by_hand: Rates) -> str:
    rate = found.texts_per_s
    share = f"{rate / limit['texts_per_s']:.2f}" if limit else "-"
    if limit and at == (1, 1):
        share = f"P50 x {found.p50_ms / limit['one_ms']:.2f}"
    ratio = f"{rate / by_hand[at]:.1f}" if by_hand.get(at) else "-"
    held = "-" if found.gpu_peak_mib is None else f"{found.gpu_peak_mib:.0f}"
    return (
        f"{name:24}{at[0]:8}{at[1]:6}{rate:9.0f}{found.p50_ms:9.1f}{found.p99_ms:9.1f}"
        f"{found.cpu:6.2f}{found.client:8.2f}{found.rss_mib:9.0f}{held:>9}{share:>12}{ratio:>11}"
        + (f"  errors {found.errors}" if found.errors else "")
    )


def _offline(kind: str, given: argparse.Namespace, texts: Sequence[str], card: Card) -> Limit:
    card.reset()
    done = subprocess.run(
        [sys.executable, str(HERE / "server_offline.py"), kind, given.model, given.device, given.dtype],
        input=json.dumps(texts), stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    found: Limit = json.loads(done.stdout.splitlines()[-1])
    held = "" if card.peak_mib is None else f", GPU {card.peak_mib:.0f} MiB"
    print(
        f"offline {kind}: {found['texts_per_s']:.0f} texts/s (batches of {found['batch']}), "
        f"one text {found['one_ms']:.1f} ms{held}",
        flush=True,
    )
    return found


def _by_hand(given: argparse.Namespace) -> list[str]:
    script = str(HERE / "server_by_hand.py")
    return [sys.executable, script, given.model, "{port}", given.device, given.dtype]


def _ours(kind: str, given: argparse.Namespace, flags: str = "") -> list[str]:
    argv = [sys.executable, "-m", "deploytool.st_server", "--model", given.model, "--backend", kind]
    argv += ["--served-model-name", MODEL, "--device", given.device, "--dtype", given.dtype]
    return [*argv, "--port", "{port}", *shlex.split(flags)]


def _installed(kind: str) -> bool:
    package = {"onnx": "onnxruntime"}.get(kind, kind)
    return importlib.util.find_spec(package) is not None


if __name__ == "__main__":
    main()
