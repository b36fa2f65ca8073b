"""How an evaluation is shown: progress with the time left on stderr, its figures as tables on stdout."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from deploytool.cli.output import note, say, table

if TYPE_CHECKING:
    from deploytool.evaluation import EvalRecord
    from deploytool.evaluation.record import Difference, Metric

PLAIN_LINE_S = 10.0
TERMINAL_LINE_S = 0.1
SHOWN = ("recall@1", "recall@5", "recall@10", "mrr@10", "ndcg@10", "map")


class Watcher:
    """One live line on a terminal, a plain one now and then elsewhere."""

    def __init__(self) -> None:
        self.live = sys.stderr.isatty()
        self.what = ""
        self.began = self.said = time.monotonic()
        self.at_first = 0

    def note(self, line: str) -> None:
        self.clear()
        note(line)

    def step(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if what != self.what:
            self.what, self.began, self.said, self.at_first = what, now, now, done
            return
        if now - self.said < (TERMINAL_LINE_S if self.live else PLAIN_LINE_S) and done < total:
            return
        self.said = now
        made = done - self.at_first
        left = f", {_time((now - self.began) / made * (total - done))} left" if made and done < total else ""
        line = f"{what}: {done} of {total}{left}"
        if self.live:
            sys.stderr.write(f"\r\x1b[K{line}")
            sys.stderr.flush()
        else:
            note(line)

    def clear(self) -> None:
        if self.live:
            sys.stderr.write("\r\x1b[K")


@contextlib.contextmanager
def watching() -> Iterator[Watcher]:
    watcher = Watcher()
    try:
        yield watcher
    finally:
        watcher.clear()


def show(record: EvalRecord) -> None:
    """The record as tables."""
    say(f"{record.target} on {record.dataset}: {record.n_queries} queries, {record.n_docs} documents")
    say()
    _stages(record)
    if record.by_language:
        say()
        rows = [
            (name, group.n_queries, *_figures(group.metrics)) for name, group in record.by_language.items()
        ]
        table(("language", "queries", *SHOWN), rows, right=("queries",))
    if record.by_dims:
        say()
        rows = [
            (int(size), *_figures(cut.metrics), _change(cut.change.get("ndcg@10")))
            for size, cut in record.by_dims.items()
        ]
        table(("dims", *SHOWN, "ndcg@10 against the first"), rows, right=("dims",))
    for other in record.against:
        say()
        say(f"{record.target} minus {other.target}, the same {record.n_queries} queries:")
        changes = [(name, _change(found)) for name, found in other.differences.items()]
        table(
            ("metric", other.target, "difference"),
            [(name, _metric(other.metrics[name]), change) for name, change in changes],
        )
    say()
    for line in _facts(record):
        say(line)


def _stages(record: EvalRecord) -> None:
    several = len(record.stages) > 1
    rows = [
        ((f"{stage.name}: {stage.system}" if several else stage.system), *_figures(stage.metrics))
        for stage in record.stages
    ]
    table(("mean (95 % interval)", *SHOWN), rows)
    for stage in record.stages:
        if stage.found_at_candidates is not None:
            say(
                f"found among {stage.system}'s candidates, the most that a later stage can reach: "
                f"{_metric(stage.found_at_candidates)}"
            )


def _facts(record: EvalRecord) -> Iterator[str]:
    if record.margin is not None:
        z = record.similarity.get("z")
        said = f"{z:.1f} standard deviations" if z is not None else "all pairs alike"
        yield (
            f"margin: {record.margin:.3f} ({said}): mean cosine {record.similarity['positives']:.3f} of "
            f"relevant pairs, {record.similarity['all_pairs']:.3f} of all"
        )
    if record.dims is not None:
        yield f"vectors: {record.dims} dimensions" + (f", cut by {record.dims_by}" if record.dims_by else "")
    for role in ("query", "document"):
        if role in record.prompts:
            yield f"{role} prompt: {record.prompts[role] or 'none'}"
    cut = "not known" if record.truncated is None else str(record.truncated)
    yield f"truncated texts: {cut} ({record.truncated_how})"
    if record.index is not None:
        index = record.index
        yield (
            f"index {index.kind} ({index.place}): finds {index.recall_at_10:.4f} of the exact first ten; "
            f"built in {index.build_seconds:.1f} s; a query takes {index.query_ms_p50:.2f} ms "
            f"(p95 {index.query_ms_p95:.2f})"
        )
    cost = record.cost
    tokens = f", {cost.tokens:,} tokens" if cost.tokens is not None else ""
    usd = f", ${cost.usd:.4f}" if cost.usd is not None else ""
    yield (
        f"computed {cost.computed:,}, from the cache {cost.cached:,}{tokens}{usd}; {record.seconds:.1f} s; "
        f"record {record.id}"
    )


def _figures(metrics: Mapping[str, Metric]) -> list[str]:
    return [_metric(metrics[name]) for name in SHOWN]


def _metric(metric: Metric) -> str:
    half = (metric.ci95[1] - metric.ci95[0]) / 2
    return f"{_short(metric.value)} ±{_short(half)}"


def _change(change: Difference | None) -> str | None:
    if change is None:
        return None
    span = f"{change.value:+.4f} ({change.ci95[0]:+.4f} to {change.ci95[1]:+.4f}), p {change.p:.4f}"
    return f"{span}: real" if change.real else f"{span}: no difference that this set can show"


def _short(value: float) -> str:
    return f"{value:.4f}".removeprefix("0") if 0 <= value < 1 else f"{value:.4f}"


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
