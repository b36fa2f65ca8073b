"""How the latencies of each cell are spread: one row a cell, one drawing a batch size, one scale for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from deploytool.records import Cell
from deploytool.reports import svg, wording
from deploytool.reports.markup import Markup, element, join
from deploytool.reports.reduction import Histogram, Key, edge_ms, key
from deploytool.reports.wording import counted, milliseconds

ROW_PX = 34
TALL_PX = 27


def draw(cells: Sequence[Cell], histograms: Mapping[Key, Histogram]) -> list[Markup]:
    """One drawing for each batch size that has samples."""
    shown = [cell for cell in wording.in_order(cells) if key(cell.name) in histograms]
    if not shown:
        return []
    buckets = [bucket for cell in shown for bucket in _of(histograms, cell).buckets]
    low, high = edge_ms(min(buckets)), edge_ms(max(buckets) + 1)
    batches = sorted({cell.batch for cell in shown})
    return [
        _batch([cell for cell in shown if cell.batch == batch], histograms, index, low, high)
        for index, batch in enumerate(batches)
    ]


def _of(histograms: Mapping[Key, Histogram], cell: Cell) -> Histogram:
    found = key(cell.name)
    return histograms.get(found, Histogram()) if found is not None else Histogram()


def _batch(
    cells: Sequence[Cell], histograms: Mapping[Key, Histogram], index: int, low: float, high: float
) -> Markup:
    plot = svg.Plot(480, 74 + ROW_PX * len(cells), left=44, right=84, top=26)
    x = svg.Scale(low, high, plot.left, plot.width - plot.right, log=True)
    rows = []
    for number, cell in enumerate(cells):
        base = plot.top + ROW_PX * (number + 1) - 3
        rows.append(_row(cell, _of(histograms, cell), index, x, base, plot))
    batch = cells[0].batch
    return plot.drawn(
        f"Latency of batch {batch}",
        " ".join(_words(cell) for cell in cells),
        element(
            "text",
            f"batch {batch}",
            x=2,
            y=14,
            class_=f"name {svg.series_class(index)}",
            fill=svg.PALETTE[index % len(svg.PALETTE)],
        ),
        plot.x_axis(x, "latency of a request, ms (log scale)"),
        rows,
    )


def _row(cell: Cell, histogram: Histogram, index: int, x: svg.Scale, base: float, plot: svg.Plot) -> Markup:
    colour = svg.PALETTE[index % len(svg.PALETTE)]
    flaw = wording.flaw(cell)
    latency = cell.latency_ms
    return join(
        svg.line(plot.left, base, plot.width - plot.right, base, "grid"),
        element(
            "path",
            element("title", _words(cell)),
            d=_outline(histogram, x, base),
            fill="#8a8f98" if flaw and flaw != "suspect" else colour,
            fill_opacity=0.55,
            class_="area void" if flaw and flaw != "suspect" else f"area {svg.series_class(index)}",
        ),
        _tick(x, base, latency.p50, "p50"),
        _tick(x, base, latency.p99, "p99"),
        svg.text(plot.left - 8, base - 4, cell.name.partition(" ")[2], anchor="end"),
        svg.text(plot.width - plot.right + 6, base - 4, flaw or f"n={histogram.count:,}"),
    )


def _outline(histogram: Histogram, x: svg.Scale, base: float) -> str:
    """Bars side by side; a bucket with a single request is still seen."""
    highest = max(histogram.buckets.values())
    bars = []
    for bucket, count in sorted(histogram.buckets.items()):
        left, right = x(edge_ms(bucket)), x(edge_ms(bucket + 1))
        tall = max(1.5, TALL_PX * count / highest)
        bars.append(f"M{left:.1f} {base:.1f}v{-tall:.1f}h{right - left:.1f}v{tall:.1f}z")
    return "".join(bars)


def _tick(x: svg.Scale, base: float, value: float | None, kind: str) -> Markup | None:
    if value is None:
        return None
    words = element("title", f"{kind.upper()} {milliseconds(value)}")
    at = x(value)
    if kind == "p50":
        return element(
            "path",
            words,
            d=f"M{at:.1f} {base:.1f}v{-TALL_PX}",
            stroke="#333",
            stroke_width=2.0,
            class_="tick50",
        )
    diamond = f"M{at:.1f} {base - 11:.1f}l4.5 5.5-4.5 5.5-4.5-5.5z"
    return element("path", words, d=diamond, fill="#333", class_="tick99")


def _words(cell: Cell) -> str:
    latency = cell.latency_ms
    tail = f", P99 {milliseconds(latency.p99)}" if latency.p99 is not None else ""
    return (
        f"{wording.label(cell)}: {counted(cell.requests, 'request')}, P50 {milliseconds(latency.p50)}{tail}, "
        f"max {milliseconds(latency.max)}."
    )
