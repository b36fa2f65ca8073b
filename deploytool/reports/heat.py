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
Mark = Callable[[Cell], str | None]


def draw(record: RunRecord, title: str, hue: str, value: Value, mark: Mark = lambda _: None) -> Markup | None:
    """A map of `value` in the colours `hue` ("cool": more is better; "warm": worse). None: no value.

    `mark` is a word below the figure.
    """
    known = [found for cell in record.cells if wording.counts(cell) and (found := value(cell)) is not None]
    if not known:
        return None
    batches, loads = wording.grid(record)[0], wording.loads(record)
    cells = {(cell.batch, wording.load_key(cell)): cell for cell in record.cells}
    head = element(
        "tr",
        element("th", "batch", class_="corner", scope="col"),
        [element("th", words, scope="col") for _, words in loads],
    )
    rows = [
        element(
            "tr",
            element("th", str(batch), scope="row"),
            [_cell(cells.get((batch, load)), hue, value, known, mark) for load, _ in loads],
        )
        for batch in batches
    ]
    caption = element("caption", title)
    return element("table", caption, element("thead", head), element("tbody", rows), class_="heat")


def _cell(cell: Cell | None, hue: str, value: Value, known: Sequence[float], mark: Mark) -> Markup:
    if cell is None:
        return element("td", element("small", "not run"), class_="none")
    found = value(cell)
    if not wording.counts(cell):
        return element(
            "td", figure(found), element("small", wording.flaw(cell) or "no answer"), class_="void"
        )
    if found is None:
        return element("td", wording.UNKNOWN, class_="none", title="too few samples, or not measured")
    words = [word for word in (mark(cell), "suspect" if wording.flaw(cell) else None) if word]
    small = element("small", ", ".join(words)) if words else None
    return element(
        "td", figure(found), small, class_=f"{hue} l{level(found, known)}", title=wording.place(cell)
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
