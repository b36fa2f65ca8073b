"""The target's own Prometheus metrics while a cell runs, where it has them (ours, SGLang's)."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

from deploytool.errors import DeploytoolError
from deploytool.records import ServerSide
from deploytool.targets import Resolved

EVERY_S = 1.0
TIMEOUT_S = 2.0
# What a metric says, by the names under which servers export it.
NAMES: dict[str, tuple[str, ...]] = {
    "queue": ("st_server_queue_texts", "sglang:num_queue_reqs"),
    "running": ("st_server_unanswered_requests", "sglang:num_running_reqs"),
    "tokens": ("st_server_tokens_total", "sglang:prompt_tokens_total"),
    "texts": ("st_server_texts_total", "sglang:num_requests_total"),
    "started": ("process_start_time_seconds",),
}
_LINE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{[^}]*\})?\s+([-+.\deEinfaN]+)")


class Scrape(NamedTuple):
    """One reading: when, and what it said of each of NAMES that was there."""

    time_ns: int
    values: dict[str, float]


def parse(text: str) -> dict[str, float]:
    """The metrics that are known here, each summed over its labels."""
    meaning = {name: kind for kind, names in NAMES.items() for name in names}
    found: dict[str, float] = {}
    for line in text.splitlines():
        match = _LINE.match(line)
        if match and (kind := meaning.get(match[1])) is not None:
            with contextlib.suppress(ValueError):
                found[kind] = found.get(kind, 0.0) + float(match[2])
    return found


class Scraper:
    """Reads the metrics every second while it is asked to, in a thread."""

    def __init__(self, target: Resolved) -> None:
        self.target = target
        self.scrapes: list[Scrape] = []
        self.reason: str | None = None

    @contextlib.contextmanager
    def scraping(self) -> Iterator[None]:
        self.scrapes = []
        self.reason = None
        first = self._once()
        if first is None:
            yield
            return
        ending = threading.Event()
        thread = threading.Thread(target=self._run, args=(ending,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ending.set()
            thread.join(2 * TIMEOUT_S)
            self._once()

    def _run(self, ending: threading.Event) -> None:
        while not ending.wait(EVERY_S):
            self._once()

    def _once(self) -> Scrape | None:
        try:
            with self.target.client(TIMEOUT_S) as client:
                answer = client.request("GET", "/metrics")
        except DeploytoolError as error:
            self.reason = f"/metrics: {error.message}"
            return None
        values = parse(answer.body.decode("utf-8", "replace")) if answer.status == 200 else {}
        if not values.keys() - {"started"}:
            said = (
                f"answered {answer.status}" if answer.status != 200 else "holds no metric that is known here"
            )
            self.reason = f"/metrics {said}"
            return None
        scrape = Scrape(time.monotonic_ns(), values)
        self.scrapes.append(scrape)
        return scrape

    def between(self, window: tuple[int, int] | None) -> ServerSide:
        """What was read within the window. Rates are between its first and its last reading."""
        inside = [one for one in self.scrapes if window and window[0] <= one.time_ns <= window[1]]
        starts = {one.values["started"] for one in self.scrapes if "started" in one.values}
        found = ServerSide(scrapes=len(inside), restarted=len(starts) > 1)
        if not self.scrapes:
            found.reason = self.reason or "there was no time to read /metrics"
            return found
        for kind in ("queue", "running"):
            values = [one.values[kind] for one in inside if kind in one.values]
            if values:
                setattr(found, f"{kind}_mean", sum(values) / len(values))
                setattr(found, f"{kind}_max", max(values))
        for kind in ("tokens", "texts"):
            counted = [(one.time_ns, one.values[kind]) for one in inside if kind in one.values]
            if len(counted) > 1 and counted[-1][1] >= counted[0][1]:
                seconds = (counted[-1][0] - counted[0][0]) / 1e9
                setattr(found, f"{kind}_per_s", (counted[-1][1] - counted[0][1]) / seconds)
        if len(inside) < 2:
            found.reason = "the window is too short for rates: /metrics is read once a second"
        return found
