"""Memory, utilisation and power over time, one panel each, with the phases of the run shaded behind them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from deploytool.reports import svg
from deploytool.reports.markup import Markup, element, join
from deploytool.reports.reduction import OF_SERVER, PANELS, Series, Timeline
from deploytool.reports.wording import duration, figure

PANEL_PX = 150
GAP_PX = 44
HEAD_PX = 46


def draw(timeline: Timeline) -> Markup | None:
    """None where there is no reading, or only one moment."""
    panels = [
        (name, [series for series in timeline.series if series.panel == name])
        for name in PANELS
        if any(series.panel == name for series in timeline.series)
    ]
    if not panels or timeline.end_s <= 0:
        return None
    height = HEAD_PX + len(panels) * PANEL_PX + (len(panels) - 1) * GAP_PX + 48
    plot = svg.Plot(980, height, left=64, right=20, top=HEAD_PX, bottom=48)
    x = svg.Scale(0.0, timeline.end_s, plot.left, plot.width - plot.right)
    tops = [HEAD_PX + index * (PANEL_PX + GAP_PX) for index in range(len(panels))]
    titles = ", ".join(PANELS[name][0] for name, _ in panels)
    ticks = [(tick, duration(tick)) for tick in x.ticks(9)]
    return plot.drawn(
        f"{titles} over time",
        " ".join(_words(series) for _, group in panels for series in group),
        [_bands(timeline, x, top) for top in tops],
        plot.x_axis(x, "time since the first reading", ticks),
        [svg.line(x(cut), plot.top, x(cut), plot.height - plot.bottom, "cut") for cut in timeline.cuts],
        _names(timeline, x),
        [_panel(name, series, timeline, plot, top) for (name, series), top in zip(panels, tops, strict=True)],
    )


def _panel(name: str, series: Sequence[Series], timeline: Timeline, plot: svg.Plot, top: float) -> Markup:
    title, unit = PANELS[name]
    x = svg.Scale(0.0, timeline.end_s, plot.left, plot.width - plot.right)
    values = [value for one in series for value in (min(one.values), max(one.values))]
    near = min(values) > 0.6 * max(values)
    y = svg.scale(values, top + PANEL_PX, top, log_from=math.inf, zero=not near)
    area = svg.Plot(plot.width, top + PANEL_PX, left=plot.left, right=plot.right, top=top, bottom=0)
    lines = [
        svg.series_line(
            [(x(at), y(value)) for at, value in segment], _index(one, timeline), "5 3" if one.part else None
        )
        for one in series
        for segment in one.segments()
    ]
    heading = f"{title}, {unit}{'' if y.low == 0 else f' (axis begins at {figure(y.low)})'}"
    return join(area.y_axis(y, heading, 5), lines, _legend(series, timeline, plot, top))


def _index(series: Series, timeline: Timeline) -> int:
    return 0 if series.device is None else timeline.devices.index(series.device)


def _legend(series: Sequence[Series], timeline: Timeline, plot: svg.Plot, top: float) -> Markup:
    """The names of the cards, and what a dashed line is, right above a panel; none where one line is all."""
    whole = [one for one in series if not one.part]
    names: list[tuple[str, Series, str | None]] = []
    if len(timeline.devices) > 1:
        names = [(f"GPU {one.device}", one, None) for one in whole]
    if len(whole) < len(series):
        names = names or [("all processes", series[0], None)]
        names.append((f"dashed: {OF_SERVER}", series[-1], "5 3"))
    right = plot.width - plot.right
    drawn = []
    for words, one, dash in reversed(names):
        left = right - len(words) * svg.CHARACTER_PX
        drawn.append(svg.text(left, top - 10, words))
        drawn.append(
            svg.series_line([(left - 24, top - 14), (left - 5, top - 14)], _index(one, timeline), dash)
        )
        right = left - 36
    return join(drawn)


def _bands(timeline: Timeline, x: svg.Scale, top: float) -> list[Markup]:
    """A band for each phase behind one panel."""
    return [
        element(
            "rect",
            element("title", f"{phase}: {duration(start)} to {duration(end)}"),
            x=x(start), y=top - 4, width=max(x(end) - x(start), 0.0), height=float(PANEL_PX + 4),
            fill="#8a8f98", fill_opacity=0.16 if number % 2 else 0.05, class_="band",
        )
        for number, (phase, start, end) in enumerate(timeline.phases)
    ]  # fmt: skip


def _names(timeline: Timeline, x: svg.Scale) -> list[Markup]:
    """The phases' names where they have room, else those of their batch sizes."""
    return [
        svg.text((x(start) + x(end)) / 2, 12, name, anchor="middle")
        for name, start, end in _named(timeline.phases, x)
        if _fits(name, x(end) - x(start))
    ]


def _named(phases: Sequence[tuple[str, float, float]], x: svg.Scale) -> list[tuple[str, float, float]]:
    """The phases with short names; those of a batch size as one where a name has no room."""
    short = [(re.sub(r"^load +", "", phase), start, end) for phase, start, end in phases]
    if all(_fits(name, x(end) - x(start)) for name, start, end in short if re.match(r"b\d+ c\d+$", name)):
        return short
    found: list[tuple[str, float, float]] = []
    for name, start, end in short:
        batch = re.match(r"b(\d+) c\d+$", name)
        group = f"batch {batch[1]}" if batch else name
        if found and found[-1][0] == group:
            found[-1] = (group, found[-1][1], end)
        else:
            found.append((group, start, end))
    return found


def _fits(name: str, wide: float) -> bool:
    return len(name) * svg.CHARACTER_PX + 4 <= wide


def _words(series: Series) -> str:
    title, unit = PANELS[series.panel]
    low, high = figure(min(series.values)), figure(max(series.values))
    card = "" if series.device is None else f" of GPU {series.device}"
    part = f", {series.part}" if series.part else ""
    return f"{title}{card}{part}: {low} to {high} {unit}."
