"""A run as one HTML page: no script, no outside resource; opens offline, light or dark, on paper, on a phone.

Its content security policy allows nothing but its own stylesheet, by hash: what an endpoint or a model's name
says can be shown, and cannot do anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from deploytool import __version__
from deploytool.errors import DeploytoolError
from deploytool.records import RunRecord
from deploytool.reports import background, charts, evidence, page, sections, slo
from deploytool.reports.markup import element
from deploytool.reports.reduction import Rows, histograms, timeline
from deploytool.thresholds import Threshold

REQUEST_COLUMNS = ("cell", "phase", "latency_ns", "error")

Reduced = TypeVar("Reduced")


def render(
    record: RunRecord, requests: Rows | None, memory: Rows | None, limits: Sequence[Threshold] | None = None
) -> str:
    """The page. `requests` and `memory` are rows of the raw samples (see `samples`), None: there are none.

    Rows that turn out to be damaged cost their section, not the page. `limits` is an SLO to show; None: the
    one that a capacity search was given, where this is one.
    """
    spread = _reduced(requests, histograms, "No raw samples of requests are kept with this run.")
    asked = slo.of_run(record) if limits is None else limits
    readings = _reduced(memory, timeline, "No raw samples of memory are kept with this run.")
    body = element(
        "main",
        sections.header(record),
        sections.findings(record, slo.sentence(record, asked)),
        sections.results(record),
        charts.curves(record, asked),
        charts.maps(record, asked),
        charts.distribution(record, spread),
        charts.memory(record, readings),
        evidence.draw(record),
        sections.errors(record),
        background.method(record, spread),
        background.environment(record),
        element("footer", f"Made by deploytool {__version__} from run {record.id}."),
    )
    head = page.head(f"{record.target.model}: load report")
    return f"<!DOCTYPE html>\n{element('html', head, element('body', body), lang='en')}\n"


def _reduced(rows: Rows | None, reduce: Callable[[Rows], Reduced], missing: str) -> Reduced | str:
    if rows is None:
        return missing
    try:
        return reduce(rows)
    except DeploytoolError as error:
        return ". ".join(
            part for part in ("The raw samples cannot be read", error.message, *error.details) if part
        )
