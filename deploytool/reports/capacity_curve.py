"""The curve of a capacity search: latency against the rate that was due."""

from __future__ import annotations

from collections.abc import Sequence

from deploytool.reports import svg
from deploytool.reports.markup import Markup, join
from deploytool.reports.parts import paragraph, scrolled
from deploytool.reports.wording import milliseconds
from deploytool.sizing import Capacity, Probe
from deploytool.thresholds import parse_slo


def draw(found: Capacity, headline: str) -> Markup:
    """P50 and P99 by rate, the lowest limit of the SLO as a line; probes that broke it are crosses."""
    probes = [probe for probe in found.found.probes if probe.p50_ms and probe.ruling != "void"]
    if not probes:
        return paragraph("No probe had a latency.", "missing")
    values = [value for probe in probes for value in (probe.p50_ms, probe.p99_ms) if value]
    plot = svg.Plot(720, 340, left=58, right=60, top=30)
    x = svg.scale([probe.rate for probe in probes], plot.left, plot.width - plot.right, log_from=40)
    y = svg.scale(values, plot.height - plot.bottom, plot.top, log_from=6)
    labels = svg.Labels(plot.width, plot.height - plot.bottom)
    drawn = [_series(probes, index, name, x, y, labels) for index, name in enumerate(("p50", "p99"))]
    drawing = plot.drawn(
        "Latency against rate",
        f"{headline}. Crosses: the SLO did not hold.",
        plot.x_axis(x, f"requests due a second{' (log scale)' if x.log else ''}"),
        plot.y_axis(y, f"latency, ms{' (log scale)' if y.log else ''}"),
        _mark_best(found, plot, x),
        _limits(found, plot, y),
        drawn,
    )
    return scrolled(drawing, "Latency against rate")


def _series(
    probes: Sequence[Probe], index: int, name: str, x: svg.Scale, y: svg.Scale, labels: svg.Labels
) -> Markup:
    points = [
        (probe, x(probe.rate), y(value))
        for probe in sorted(probes, key=lambda one: (one.rate, one.due))
        if (value := getattr(probe, f"{name}_ms"))
    ]
    if not points:
        return Markup("")
    line = svg.series_line([(left, top) for _, left, top in points], index)
    marks = [
        svg.marker(left, top, index, _words(probe, name))
        if probe.ruling == "holds"
        else svg.cross(left, top, _words(probe, name))
        for probe, left, top in points
    ]
    _, left, top = points[-1]
    kind, colour = f"name {svg.series_class(index)}", svg.PALETTE[index]
    return join(line, marks, labels.place(left, top, name.upper(), kind, needed=True, colour=colour))


def _words(probe: Probe, name: str) -> str:
    value = getattr(probe, f"{name}_ms")
    return f"{probe.rate:g}/s, {name.upper()} {milliseconds(value)}: {probe.ruling}"


def _mark_best(found: Capacity, plot: svg.Plot, x: svg.Scale) -> Markup | None:
    if not found.found.max_qps:
        return None
    at = x(found.found.max_qps)
    return svg.line(at, plot.top, at, plot.height - plot.bottom, "cut")


def _limits(found: Capacity, plot: svg.Plot, y: svg.Scale) -> list[Markup]:
    """The limits of the SLO that lie within the scale, each with its words."""
    drawn = []
    for condition in parse_slo(",".join(found.slo)):
        if condition.unit == "ms" and y.low < condition.amount < y.high:
            at = y(condition.amount)
            drawn.append(svg.line(plot.left, at, plot.width - plot.right, at, "cut"))
            drawn.append(svg.text(plot.left + 6, at - 5, condition.text))
    return drawn
