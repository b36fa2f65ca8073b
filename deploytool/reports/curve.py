"""The latency-throughput curve: what more clients bring in texts per second, and cost in latency."""

from __future__ import annotations

from collections.abc import Sequence

from deploytool.records import Cell
from deploytool.reports import svg, wording
from deploytool.reports.markup import Markup, element, join
from deploytool.reports.wording import figure, milliseconds
from deploytool.thresholds import Threshold

MOST_NAMED_POINTS = 40
LIMIT_FROM = 4  # times the highest figure: an SLO beyond it would press everything flat


def draw(cells: Sequence[Cell], percentile: str, limit: Threshold | None = None) -> Markup | None:
    """One line a batch size, one point a concurrency or rate, each with its interval; the SLO's limit across.

    None where no cell has this percentile.
    """
    shown = [cell for cell in wording.in_order(cells) if getattr(cell.latency_ms, percentile) is not None]
    shown = [cell for cell in shown if cell.texts_per_s > 0]
    if not shown:
        return None
    plot = svg.Plot(480, 360, left=56, right=22, top=30)
    x = svg.scale([cell.texts_per_s for cell in shown], plot.left, plot.width - plot.right - 44, log_from=40)
    values = [value for cell in shown for value in _interval(cell, percentile)]
    if limit is not None and limit.amount <= LIMIT_FROM * max(values):
        values.append(limit.amount)
    y = svg.scale(
        values,
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
        _limit(limit, plot, y),
        _series(shown, percentile, plot, x, y),
    )


def _interval(cell: Cell, percentile: str) -> tuple[float, float, float]:
    """The figure, and the ends of its interval where it has one."""
    value = getattr(cell.latency_ms, percentile)
    return (value, *cell.latency_ci95_ms.get(percentile, (value, value)))


def _limit(limit: Threshold | None, plot: svg.Plot, y: svg.Scale) -> Markup | None:
    """The SLO's line with its words; only words where it lies far above everything."""
    if limit is None:
        return None
    if limit.amount > y.high:
        return svg.text(plot.left + 6, plot.top + 12, f"SLO {limit.text}: far above", "slo-name")
    at = y(limit.amount)
    return join(
        element(
            "line",
            element("title", f"SLO: {limit.text}"),
            x1=plot.left, x2=plot.width - plot.right, y1=at, y2=at,
            stroke="#b3400a", stroke_width=1.5, stroke_dasharray="7 4", class_="slo",
        ),
        svg.text(plot.left + 6, at - 5, f"SLO {limit.text}", "slo-name"),
    )  # fmt: skip


def _whisker(x: float, low: float, high: float, index: int) -> Markup | None:
    """An upright bar from one end of an interval to the other; none where its ends meet."""
    if abs(low - high) < 1:
        return None
    return element(
        "path",
        d=f"M{x - 4:.1f} {low:.1f}h8M{x:.1f} {low:.1f}V{high:.1f}M{x - 4:.1f} {high:.1f}h8",
        fill="none", stroke=svg.PALETTE[index % len(svg.PALETTE)], stroke_width=1.2,
        class_=f"line {svg.series_class(index)}",
    )  # fmt: skip


def _series(cells: Sequence[Cell], percentile: str, plot: svg.Plot, x: svg.Scale, y: svg.Scale) -> Markup:
    labels = svg.Labels(plot.width, plot.height - plot.bottom)
    points = {id(cell): (x(cell.texts_per_s), y(getattr(cell.latency_ms, percentile))) for cell in cells}
    for point in points.values():
        labels.keep_free(*point, 5)
    lines: list[Markup] = []
    marks: list[Markup] = []
    whiskers: list[Markup | None] = []
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
            low, high = (y(end) for end in _interval(cell, percentile)[1:])
            whiskers.append(_whisker(points[id(cell)][0], low, high, index))
            if wording.counts(cell):
                marks.append(svg.marker(*points[id(cell)], index, words))
            else:
                marks.append(svg.cross(*points[id(cell)], f"{words} ({wording.flaw(cell)})"))
        colour = svg.PALETTE[index % len(svg.PALETTE)]
        end = (joined or [points[id(row[-1])]])[-1]
        ends.append((end, f"batch {batch}", f"name {svg.series_class(index)}", colour))
    names = [labels.place(*end, words, kind, needed=True, colour=colour) for end, words, kind, colour in ends]
    if len(cells) <= MOST_NAMED_POINTS:
        names += [labels.place(*points[id(cell)], _load(cell), "point") for cell in cells]
    return join(lines, whiskers, marks, names)


def _load(cell: Cell) -> str:
    return f"c{cell.concurrency}" if cell.rate is None else wording.load_of(cell)


def _words(cell: Cell, percentile: str) -> str:
    value, low, high = _interval(cell, percentile)
    between = f" (95 %: {figure(low)} to {figure(high)})" if low < high else ""
    return f"{percentile.upper()} {milliseconds(value)}{between}"


def _ends(cells: Sequence[Cell], percentile: str) -> str:
    lowest = min(cells, key=lambda cell: getattr(cell.latency_ms, percentile))
    fastest = max(cells, key=lambda cell: cell.texts_per_s)
    return (
        f"Lowest: {_words(lowest, percentile)} at {wording.place(lowest)}. "
        f"Most throughput: {figure(fastest.texts_per_s)} texts/s at {wording.place(fastest)}, "
        f"{_words(fastest, percentile)}."
    )
