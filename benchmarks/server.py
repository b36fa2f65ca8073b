"""The SentenceTransformers server beside its offline limit and a hand-written server: `make bench-server`.

The same model and texts (6 to 64 words) for every row. A processor that others share changes its speed by a third
within seconds; so a cell is measured in slices, and beside each slice the offline limit and the hand-written
server are measured too. The share of the offline limit is the mean over the slices, with its standard error: two
that differ by less than two of these are the same. The load client is a process of its own but takes its share of
the same processors; its part is printed.

On a card, whose speed stays and whose memory is to be seen apart, everything is measured once and by itself:
`python benchmarks/server.py --device cuda --dtype bfloat16 --model FOLDER --seconds 3`, with the memory that NVML
saw beyond what the card held before the run. `--variant "--lanes 2"` adds rows of the server with further flags.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from statistics import fmean, median, stdev
from typing import NamedTuple

import server_limit
import server_process
import server_strain
from server_limit import Limit
from server_process import HERE, MODEL, Card, Figures, Server, Slice
from server_texts import mixed_texts, packaged

CELLS = ((1, 1), (32, 1), (8, 8), (4, 32), (64, 1))
CARD_CELLS = (*CELLS, (16, 64))  # a card is not full with 128 texts
KINDS = ("torch", "onnx", "openvino")
SLICES = 8
HAND_SLICES, HAND_LENGTH = 4, 3.0  # fewer, so many times as long as ours: it answers after seconds
HAND_WARM_S = 4.0
HEAD = (
    f"{'':24}{'clients':>8}{'texts':>6}{'texts/s':>9}{'P50 ms':>9}{'P99 ms':>9}{'cpu':>6}{'client':>8}"
    f"{'RSS MiB':>9}{'GPU MiB':>9}{'of offline':>12}{'x by hand':>11}"
)
Cell = tuple[int, int]  # clients, texts of a request


class Measured(NamedTuple):
    """A cell of a server, and what was measured beside it.

    `of_offline`: its texts/s as a share of the limit, of each slice; `offline_one_ms`: P50 of one text offline;
    `by_hand`: texts/s of the hand-written server.
    """

    figures: Figures
    of_offline: list[float]
    offline_one_ms: float | None
    by_hand: float | None


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
        _Table(given, card, texts).print(kinds)
    vllm = importlib.util.find_spec("vllm")
    print(f"{'vLLM':24}{'not installed' if vllm is None else 'installed, not measured here'}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="a folder (default: the packaged all-MiniLM-L6-v2)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--dtype", default="float32", choices=["float32", "float16", "bfloat16"])
    parser.add_argument(
        "--seconds", type=float, default=2.0, help=f"of each slice ({SLICES} to a cell, one on a card)"
    )
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


class _Table:
    def __init__(self, given: argparse.Namespace, card: Card, texts: Sequence[str]) -> None:
        self._given = given
        self._card = card
        self._texts = texts
        self._on_cpu = given.device == "cpu"
        self._hand: Server | None = None

    def print(self, kinds: Sequence[str]) -> None:
        with ExitStack() as stack:
            limits = {kind: self._limit(kind, stack) for kind in kinds}
            print(f"\n{HEAD}")
            with ExitStack() as hand:
                server = hand.enter_context(server_process.running(_by_hand(self._given), self._card))
                self._hand = server
                hand_alone = self._rows("by hand", server, limits.get("torch"), {})
                if not self._on_cpu:
                    hand.close()
                    self._hand = None
                for kind in kinds:
                    for flags in ("", *self._given.variant):
                        argv = _ours(kind, self._given, flags)
                        with server_process.running(argv, self._card) as ours:
                            name = f"ours, {kind} {flags}".strip()
                            self._rows(name, ours, limits[kind], hand_alone)

    def _limit(self, kind: str, stack: ExitStack) -> Limit:
        texts = self._texts[:256] if self._on_cpu else self._texts
        argv = [kind, self._given.model, self._given.device, self._given.dtype]
        self._card.reset()
        found = stack.enter_context(server_limit.limit(argv, texts, stays=self._on_cpu))
        peak = self._card.peak_mib
        held = "" if peak is None else f", GPU {peak:.0f} MiB"
        print(f"offline {kind}: {found.words()}{held}", flush=True)
        if kind != "torch":  # `encode` gives a runtime's session all threads
            with server_limit.limit([*argv, "--lanes", "1"], texts, stays=False) as one_lane:
                print(f"offline {kind}, one lane with all threads: {one_lane.words()}", flush=True)
        return found

    def _rows(
        self, name: str, server: Server, limit: Limit | None, by_hand: Mapping[Cell, float]
    ) -> dict[Cell, float]:
        rates = {}
        for at in CELLS if self._on_cpu else CARD_CELLS:
            found = self._measured(server, at, limit)
            rates[at] = found.figures.texts_per_s
            print(_line(name, at, found, found.by_hand or by_hand.get(at)), flush=True)
        return rates

    def _measured(self, server: Server, at: Cell, limit: Limit | None) -> Measured:
        clients, size = at
        ours: list[Slice] = []
        of_offline: list[float] = []
        hands: list[Slice] = []
        ones: list[float] = []
        is_hand = server is self._hand
        for turn in range((HAND_SLICES if is_hand else SLICES) if self._on_cpu else 1):
            bodies = server_process.bodies(self._texts, size, turn * 10_000 + clients * 100 + size)
            ours.append(self._loaded(server, bodies, clients))
            rate = ours[-1].requests_per_s * size
            if limit is not None and at == (1, 1):
                ones += limit.one_ms()
            elif limit is not None:
                of_offline.append(rate * limit.pass_s())
            if self._hand is not None and not is_hand and turn % (SLICES // HAND_SLICES) == 0:
                hands.append(self._loaded(self._hand, bodies, clients))
        one_ms = median(ones) if ones else None
        by_hand = server_process.figures(hands, size).texts_per_s if hands else None
        return Measured(server_process.figures(ours, size), of_offline, one_ms, by_hand)

    def _loaded(self, server: Server, bodies: Sequence[str], clients: int) -> Slice:
        seconds: float = self._given.seconds
        if server is self._hand and self._on_cpu:
            return server_process.loaded(server, bodies, clients, HAND_LENGTH * seconds, HAND_WARM_S)
        return server_process.loaded(server, bodies, clients, seconds)


def _line(name: str, at: Cell, measured: Measured, by_hand: float | None) -> str:
    found = measured.figures
    share = _with_error(measured.of_offline)
    if measured.offline_one_ms:
        share = f"P50 x {found.p50_ms / measured.offline_one_ms:.2f}"
    ratio = f"{found.texts_per_s / by_hand:.1f}" if by_hand else "-"
    held = "-" if found.gpu_peak_mib is None else f"{found.gpu_peak_mib:.0f}"
    return (
        f"{name:24}{at[0]:8}{at[1]:6}{found.texts_per_s:9.0f}{found.p50_ms:9.1f}{found.p99_ms:9.1f}"
        f"{found.cpu:6.2f}{found.client:8.2f}{found.rss_mib:9.0f}{held:>9}{share:>12}{ratio:>11}"
        + (f"  errors {found.errors}" if found.errors else "")
    )


def _with_error(ratios: Sequence[float]) -> str:
    """Their mean and its standard error; a dash where there is none."""
    if not ratios:
        return "-"
    error = f" ±{stdev(ratios) / len(ratios) ** 0.5:.2f}" if len(ratios) > 1 else ""
    return f"{fmean(ratios):.2f}{error}"


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
