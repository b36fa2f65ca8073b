"""The latency-throughput curve: what more clients bring in texts per second, and cost in latency."""

from __future__ import annotations

from collections.abc import Sequence

from deploytool.records import Cell
from deploytool.reports import svg, wording
from deploytool.reports.markup import Markup, join
from deploytool.reports.wording import figure, milliseconds

MOST_NAMED_POINTS = 40


def draw(cells: Sequence[Cell], percentile: str) -> Markup | None:
    """One line a batch size, one point a concurrency. None where no cell has this percentile."""
    shown = [cell for cell in wording.in_order(cells) if getattr(cell.latency_ms, percentile) is not None]
    shown = [cell for cell in shown if cell.texts_per_s > 0]
    if not shown:
        return None
    plot = svg.Plot(480, 360, left=56, right=22, top=30)
    x = svg.scale([cell.texts_per_s for cell in shown], plot.left, plot.width - plot.right - 44, log_from=40)
    y = svg.scale(
        [getattr(cell.latency_ms, percentile) for cell in shown],
        plot.height - plot.bottom,
        plot.top,
        log_from=6,
    )
    name = f"{percentile.upper()} latency"
    return plot.drawn(
        f"{name} against throughput",
        f"One line for each batch size, one point for each concurrency. {_ends(shown, percentile)}",
        plot.x_axis(x, f"texts/s{' (log scale)' if x.log else ''}"),
        plot.y_axis(y, f"{name}, ms{' (log scale)' if y.log else ''}"),
        _series(shown, percentile, plot, x, y),
    )


def _series(cells: Sequence[Cell], percentile: str, plot: svg.Plot, x: svg.Scale, y: svg.Scale) -> Markup:
    labels = svg.Labels(plot.width, plot.height - plot.bottom)
    points = {id(cell): (x(cell.texts_per_s), y(getattr(cell.latency_ms, percentile))) for cell in cells}
    for point in points.values():
        labels.keep_free(*point, 5)
    lines: list[Markup] = []
    marks: list[Markup] = []
    ends: list[tuple[tuple[float, float], str, str, str]] = []
    batches = sorted({cell.batch for cell in cells})
    for index, batch in enumerate(batches):
        row = [cell for cell in cells if cell.batch == batch]
        joined = [points[id(cell)] for cell in row if wording.counts(cell)]
        if len(joined) > 1:
            lines.append(svg.series_line(joined, index))
            labels.keep_line_free(joined)
        for cell in row:
            words = f"{wording.label(cell)}: {figure(cell.texts_per_s)} texts/s, {_words(cell, percentile)}"
            if wording.counts(cell):
                marks.append(svg.marker(*points[id(cell)], index, words))
            else:
                marks.append(svg.cross(*points[id(cell)], f"{words} ({wording.flaw(cell)})"))
        colour = svg.PALETTE[index % len(svg.PALETTE)]
        end = (joined or [points[id(row[-1])]])[-1]
        ends.append((end, f"batch {batch}", f"name {svg.series_class(index)}", colour))
    names = [labels.place(*end, words, kind, needed=True, colour=colour) for end, words, kind, colour in ends]
    if len(cells) <= MOST_NAMED_POINTS:
        names += [labels.place(*points[id(cell)], f"c{cell.concurrency}", "point") for cell in cells]
    return join(lines, marks, names)


def _words(cell: Cell, percentile: str) -> str:
    return f"{percentile.upper()} {milliseconds(getattr(cell.latency_ms, percentile))}"


def _ends(cells: Sequence[Cell], percentile: str) -> str:
    lowest = min(cells, key=lambda cell: getattr(cell.latency_ms, percentile))
    fastest = max(cells, key=lambda cell: cell.texts_per_s)
    return (
        f"Lowest: {_words(lowest, percentile)} at {wording.place(lowest)}. "
        f"Most throughput: {figure(fastest.texts_per_s)} texts/s at {wording.place(fastest)}, "
        f"{_words(fastest, percentile)}."
    )
