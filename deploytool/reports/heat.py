"""Heat maps of batch x concurrency as tables: each figure stands in its cell, the colour only repeats it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from deploytool.records import Cell, RunRecord
from deploytool.reports import wording
from deploytool.reports.markup import Markup, element
from deploytool.reports.wording import figure

LEVELS = 8
Value = Callable[[Cell], float | None]


def draw(record: RunRecord, title: str, hue: str, value: Value) -> Markup | None:
    """A map of `value` in the colours `hue` ("cool": more is better; "warm": worse). None: no value."""
    known = [found for cell in record.cells if wording.counts(cell) and (found := value(cell)) is not None]
    if not known:
        return None
    batches, concurrencies = wording.grid(record)
    cells = {(cell.batch, cell.concurrency): cell for cell in record.cells}
    head = element(
        "tr",
        element("th", "batch", class_="corner", scope="col"),
        [element("th", f"c{concurrency}", scope="col") for concurrency in concurrencies],
    )
    rows = [
        element(
            "tr",
            element("th", str(batch), scope="row"),
            [_cell(cells.get((batch, concurrency)), hue, value, known) for concurrency in concurrencies],
        )
        for batch in batches
    ]
    caption = element("caption", title)
    return element("table", caption, element("thead", head), element("tbody", rows), class_="heat")


def _cell(cell: Cell | None, hue: str, value: Value, known: Sequence[float]) -> Markup:
    if cell is None:
        return element("td", element("small", "not run"), class_="none")
    found = value(cell)
    if not wording.counts(cell):
        return element(
            "td", figure(found), element("small", wording.flaw(cell) or "no answer"), class_="void"
        )
    if found is None:
        return element("td", wording.UNKNOWN, class_="none", title="too few samples, or not measured")
    mark = element("small", "suspect") if wording.flaw(cell) else None
    return element(
        "td", figure(found), mark, class_=f"{hue} l{level(found, known)}", title=wording.place(cell)
    )


def level(value: float, known: Sequence[float]) -> int:
    """0 for the lowest of `known`, LEVELS - 1 for the highest; on a log scale where they span a factor of 20.

    Values that hardly differ keep colours that hardly differ.
    """
    low, high = min(known), max(known)
    if low <= 0 or high / low < 20:
        part = (value - low) / (max(high - low, 0.3 * high) or 1.0)
    else:
        part = math.log(value / low) / math.log(high / low)
    return min(LEVELS - 1, int(part * LEVELS))
