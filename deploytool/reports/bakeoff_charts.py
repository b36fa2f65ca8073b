"""The charts of a bake-off: quality against latency, quality by size of the vectors, bars with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from deploytool.decision import RANKED_BY, Decision, Quality, Row
from deploytool.reports import bakeoff_words as words
from deploytool.reports import svg
from deploytool.reports.markup import Markup, element, join
from deploytool.reports.parts import scrolled
from deploytool.reports.wording import figure, milliseconds

TITLE = words.TITLES[RANKED_BY]
LARGEST_PX = 30.0  # radius of the largest bubble
SMALLEST_PX = 5.0
BAR_PX, STEP_PX = 16.0, 28.0
WHISKER_PX = 4.0
NAME_PX = 7.4  # the mean width of a bold character


def index_of(decision: Decision, name: str) -> int:
    """A system has one colour on the whole page."""
    return [row.name for row in decision.rows].index(name)


def scatter(decision: Decision, dataset: str) -> Markup | None:
    """Quality against single-text latency; the area of a bubble is the memory peak. None: no system has both."""
    rows = [
        row for row in decision.rows if dataset in row.quality and (row.number("single_text_ms") or 0.0) > 0
    ]
    if not rows:
        return None
    plot = svg.Plot(720, 380, left=58, right=40, top=30)
    found = {row.name: row.quality[dataset][RANKED_BY] for row in rows}
    x = svg.scale(
        [_number(row, "single_text_ms") for row in rows],
        plot.left + 34,
        plot.width - plot.right - 34,
        log_from=4,
    )
    y = svg.scale(
        [end for one in found.values() for end in one.ci95],
        plot.height - plot.bottom - 20,
        plot.top + 20,
        log_from=math.inf,
        zero=False,
    )
    drawn = _points(decision, {row.name: row for row in rows}, found, x, y, plot)
    drawing = plot.drawn(
        f"Quality against latency on {dataset}",
        f"{TITLE} by the latency of one text; the area of a bubble is the memory peak. Up and left is better.",
        plot.x_axis(x, f"latency of one text, P50, ms{' (log scale)' if x.log else ''}"),
        plot.y_axis(y, f"{TITLE}, with its 95 % interval"),
        drawn,
        class_="wide",
    )
    return scrolled(drawing, f"Quality against latency on {dataset}")


def _points(
    decision: Decision,
    rows: Mapping[str, Row],
    found: Mapping[str, Quality],
    x: svg.Scale,
    y: svg.Scale,
    plot: svg.Plot,
) -> Markup:
    """Bubbles, the largest below; on them whiskers and marks, then names where there is room."""
    labels = svg.Labels(plot.width, plot.height - plot.bottom)
    most = max((row.number("memory_peak_mib") or 0.0 for row in rows.values()), default=0.0)
    bubbles, marks, places = [], [], []
    for name, row in sorted(rows.items(), key=lambda one: -(one[1].number("memory_peak_mib") or 0.0)):
        index, (low, high) = index_of(decision, name), found[name].ci95
        left, top = x(_number(row, "single_text_ms")), y(found[name].value)
        bubbles.append(_bubble(left, top, _radius(row.number("memory_peak_mib"), most), index))
        marks.append(_upright(left, y(low), y(high)))
        marks.append(svg.marker(left, top, index, _words(row, found[name])))
        labels.keep_free(left, top, 9)
        places.append((left, top, name, index))
    return join(bubbles, marks, [_name(labels, *place) for place in places])


def _number(row: Row, name: str) -> float:
    return row.number(name) or 0.0


def _radius(mib: float | None, most: float) -> float | None:
    return max(SMALLEST_PX, LARGEST_PX * math.sqrt(mib / most)) if mib and most else None


def _bubble(x: float, y: float, radius: float | None, index: int) -> Markup | None:
    if radius is None:
        return None
    colour = svg.PALETTE[index % len(svg.PALETTE)]
    return element(
        "circle",
        cx=x,
        cy=y,
        r=radius,
        fill=colour,
        fill_opacity=0.25,
        class_=f"area {svg.series_class(index)}",
    )


def _words(row: Row, found: Quality) -> str:
    memory = row.number("memory_peak_mib")
    held = f"{figure(memory)} MiB" if memory is not None else "memory not known"
    low, high = found.ci95
    span = f"{words.share(low)} to {words.share(high)}"
    latency = milliseconds(row.number("single_text_ms"))
    return f"{row.name}: {TITLE} {words.share(found.value)} ({span}), {latency}, {held}"


def _upright(x: float, low: float, high: float) -> Markup:
    """An interval as a vertical whisker."""
    return join(
        svg.line(x, low, x, high, "tick50"),
        svg.line(x - WHISKER_PX, low, x + WHISKER_PX, low, "tick50"),
        svg.line(x - WHISKER_PX, high, x + WHISKER_PX, high, "tick50"),
    )


def bars(decision: Decision, dataset: str, metric: str) -> Markup:
    """One metric of every system on a set, with intervals and marks."""
    rows = [row for row in decision.rows if metric in row.quality.get(dataset, {})]
    rows = sorted(rows, key=lambda row: -row.quality[dataset][metric].value)
    wide = max(len(row.name) for row in rows) * svg.CHARACTER_PX
    plot = svg.Plot(470, 64 + STEP_PX * len(rows), left=wide + 16, right=66, top=26, bottom=40)
    highest = max(row.quality[dataset][metric].ci95[1] for row in rows)
    x = svg.Scale(0.0, min(1.0, highest * 1.04) or 1.0, plot.left, plot.width - plot.right)
    title = words.TITLES[metric]
    drawn = [
        _bar(decision, row, row.quality[dataset][metric], plot.top + STEP_PX * (place + 0.5), x, plot)
        for place, row in enumerate(rows)
    ]
    return plot.drawn(
        f"{title} on {dataset}",
        "; ".join(f"{row.name} {words.quality(row.quality[dataset][metric])}" for row in rows),
        svg.text(plot.left, 14, title, "axis"),
        [
            join(
                svg.line(x(tick), plot.top, x(tick), plot.height - plot.bottom, "grid"),
                svg.text(x(tick), plot.height - plot.bottom + 16, svg.tick_text(tick), anchor="middle"),
            )
            for tick in x.ticks(5)
        ],
        drawn,
    )


def _bar(decision: Decision, row: Row, found: Quality, middle: float, x: svg.Scale, plot: svg.Plot) -> Markup:
    index = index_of(decision, row.name)
    low, high = (x(end) for end in found.ci95)
    value = f"{words.share(found.value)} {words.mark(found)}".rstrip()
    return join(
        svg.text(plot.left - 8, middle + 4, row.name, anchor="end"),
        element(
            "rect",
            element("title", f"{row.name}: {words.quality(found)}; {words.difference(found)}"),
            x=plot.left,
            y=middle - BAR_PX / 2,
            width=max(0.5, x(found.value) - plot.left),
            height=BAR_PX,
            fill=svg.PALETTE[index % len(svg.PALETTE)],
            fill_opacity=0.75,
            class_=f"area {svg.series_class(index)}",
        ),
        svg.line(low, middle, high, middle, "tick50"),
        svg.line(low, middle - WHISKER_PX, low, middle + WHISKER_PX, "tick50"),
        svg.line(high, middle - WHISKER_PX, high, middle + WHISKER_PX, "tick50"),
        svg.text(plot.width - plot.right + 6, middle + 4, value, "axis"),
    )


def by_dims(decision: Decision, dataset: str) -> Markup | None:
    """Quality by the size of the vectors; what has no vectors is a level line. None: nobody was cut."""
    cut = [row for row in decision.rows if len(row.by_dims.get(dataset, {})) > 1]
    if not cut:
        return None
    whole = [row for row in decision.rows if dataset in row.quality and row not in cut]
    sizes = sorted({int(size) for row in cut for size in row.by_dims[dataset]})
    shown = [one for row in cut for one in row.by_dims[dataset].values()]
    shown += [row.quality[dataset][RANKED_BY] for row in whole]
    wide = max(len(row.name) for row in [*cut, *whole]) * NAME_PX
    plot = svg.Plot(720, 360, left=58, right=wide + 24, top=30)
    x = svg.scale(sizes, plot.left + 12, plot.width - plot.right, log_from=1.5)
    y = svg.scale(
        [end for one in shown for end in one.ci95],
        plot.height - plot.bottom,
        plot.top,
        log_from=math.inf,
        zero=False,
    )
    labels = svg.Labels(plot.width, plot.height - plot.bottom)
    lines = [_line(decision, row, row.by_dims[dataset], x, y, labels) for row in cut]
    levels = [_level(decision, row, row.quality[dataset][RANKED_BY], plot, y, labels) for row in whole]
    drawing = plot.drawn(
        f"Quality by the size of the vectors on {dataset}",
        f"{TITLE} of the same vectors cut to fewer dimensions and brought to length 1 again.",
        plot.x_axis(x, "dimensions (log scale)", [(size, str(size)) for size in sizes]),
        plot.y_axis(y, f"{TITLE}, with its 95 % interval"),
        lines,
        levels,
        class_="wide",
    )
    return scrolled(drawing, f"Quality by the size of the vectors on {dataset}")


def _line(
    decision: Decision,
    row: Row,
    sizes: dict[str, Quality],
    x: svg.Scale,
    y: svg.Scale,
    labels: svg.Labels,
) -> Markup:
    index = index_of(decision, row.name)
    points = [(x(int(size)), y(one.value), size, one) for size, one in sizes.items()]
    whiskers = [_upright(left, y(one.ci95[0]), y(one.ci95[1])) for left, _, _, one in points]
    marks = [
        svg.marker(
            left, top, index, f"{row.name}, {size} dimensions: {words.quality(one)}; {words.difference(one)}"
        )
        for left, top, size, one in points
    ]
    line = [(left, top) for left, top, _, _ in points]
    labels.keep_line_free(line)
    return join(whiskers, svg.series_line(line, index), marks, _name(labels, *line[0], row.name, index))


def _level(
    decision: Decision, row: Row, found: Quality, plot: svg.Plot, y: svg.Scale, labels: svg.Labels
) -> Markup:
    """A system that was not cut: its quality all along, dashed."""
    index, top = index_of(decision, row.name), y(found.value)
    end = plot.width - plot.right
    line: Sequence[tuple[float, float]] = [(plot.left, top), (end, top)]
    return join(svg.series_line(line, index, "2 4"), _name(labels, end, top, row.name, index))


def _name(labels: svg.Labels, x: float, y: float, name: str, index: int) -> Markup | None:
    colour = svg.PALETTE[index % len(svg.PALETTE)]
    return labels.place(x, y, name, f"name {svg.series_class(index)}", needed=True, colour=colour)
