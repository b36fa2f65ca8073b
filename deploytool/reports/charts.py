"""The sections with charts: curves, heat maps, distributions, memory. Each says why where it has none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from deploytool.records import Cell, RunRecord
from deploytool.reports import curve, heat, phases, slo, spread, wording
from deploytool.reports.markup import Child, Markup, element
from deploytool.reports.parts import paragraph, scrolled, section
from deploytool.reports.reduction import Histogram, Key, Timeline
from deploytool.reports.wording import figure
from deploytool.thresholds import Threshold

MOST_PAIRED = 9  # heat maps with more columns stand below each other


def curves(record: RunRecord, limits: Sequence[Threshold] = ()) -> Markup:
    tail = wording.tail(record.cells)
    drawn = [
        curve.draw(record.cells, percentile, slo.limit_ms(limits, percentile))
        for percentile in dict.fromkeys(["p50", tail])
    ]
    shown = [element("figure", chart) for chart in drawn if chart]
    if not shown:
        return section("curve", "Latency against throughput", paragraph("No cell has a latency.", "missing"))
    words = (
        "Each point is one cell: right is more throughput, low is less waiting. Along a line the load grows "
        "(c4: four requests in flight; 50/s: so many due a second); where a line turns upwards, the server is "
        "saturated. The bars through the points are 95 % confidence intervals within the run."
    )
    if tail != "p99":
        words += f" The tail is shown as {tail.upper()}: most cells have too few samples for P99."
    if any(not wording.counts(cell) and cell.latency_ms.p50 is not None for cell in record.cells):
        words += " A cross is a cell that is void or did not finish."
    return section(
        "curve", "Latency against throughput", paragraph(words), element("div", shown, class_="pair")
    )


def maps(record: RunRecord, limits: Sequence[Threshold] = ()) -> Markup:
    memory = "vram_peak_mib" if wording.memory_columns(record.cells)[0] else "rss_peak_mib"
    card = memory.startswith("vram")

    def over_limit(cell: Cell) -> str | None:
        return {"breaks": "over SLO", "unsure": "SLO unsure"}.get(slo.judge(cell, limits) or "")

    tail = wording.tail(record.cells)
    drawn = [
        heat.draw(record, "QPS, requests/s", "cool", lambda cell: wording.rate(cell, "qps")),
        heat.draw(record, "Texts/s", "cool", lambda cell: wording.rate(cell, "texts_per_s")),
        heat.draw(
            record, f"{tail.upper()}, ms", "warm", lambda cell: getattr(cell.latency_ms, tail), over_limit
        ),
        heat.draw(
            record, f"{'VRAM' if card else 'RSS'} peak, MiB", "warm", lambda cell: getattr(cell, memory, None)
        ),
    ]
    shown = [scrolled(table, "Heat map") for table in drawn if table]
    is_open = any(cell.rate is not None for cell in record.cells)
    roomy = len(wording.loads(record)) <= MOST_PAIRED
    body: Child = element("div", shown, class_="pair" if roomy else "stack")
    if not shown:
        body = paragraph("No cell has figures that count.", "missing")
    return section("maps", f"Batch size against {'rate' if is_open else 'concurrency'}", body)


def distribution(record: RunRecord, histograms: Mapping[Key, Histogram] | str) -> Markup:
    """The spread of latencies, or why there is none."""
    title = "How latencies are spread"
    if isinstance(histograms, str):
        return section("spread", title, paragraph(histograms, "missing"))
    drawn = spread.draw(record.cells, histograms)
    if not drawn:
        return section("spread", title, paragraph("The raw samples hold no answered request.", "missing"))
    words = (
        "From the raw samples of the measured windows: the height says how many requests took that long, "
        "each row for itself; all drawings have the same scale. The bar is P50, the diamond P99; thin feet "
        "to the right are single slow requests."
    )
    return section(
        "spread",
        title,
        paragraph(words),
        element("div", [element("figure", chart) for chart in drawn], class_="pair"),
    )


def memory(record: RunRecord, timeline: Timeline | str) -> Markup:
    """Memory over time, or why there is none, and the peaks by phase."""
    chart: Child
    if isinstance(timeline, str):
        chart = paragraph(timeline, "missing")
    elif drawn := phases.draw(timeline):
        cut = " A dashed upright line is a pause that was left out." if timeline.cuts else ""
        chart = [
            paragraph(f"Shaded by phase; {timeline.readings:,} readings.{cut}"),
            scrolled(element("figure", drawn, class_="wide"), "Memory over time"),
        ]
    else:
        chart = paragraph("The memory samples hold no readings to draw.", "missing")
    return section("memory", "Memory over time", chart, _phase_table(record))


def _phase_table(record: RunRecord) -> Child:
    reasons = dict.fromkeys(phase.vram_reason for phase in record.memory if phase.vram_reason)
    if not any(phase.samples for phase in record.memory):
        return [paragraph(f"No memory was read: {reason}.", "small") for reason in reasons]
    heads = ("phase", "VRAM peak, MiB", "of the server, MiB", "RSS peak, MiB", "readings")
    rows = [
        element(
            "tr",
            element("td", phase.phase, class_="note"),
            [
                element("td", figure(value))
                for value in (phase.vram_peak_mib, phase.vram_process_peak_mib, phase.rss_peak_mib)
            ],
            element("td", f"{phase.samples:,}"),
        )
        for phase in record.memory
    ]
    head = element(
        "tr", [element("th", words, class_=None if index else "note") for index, words in enumerate(heads)]
    )
    return [
        element(
            "details",
            element("summary", "Peaks by phase"),
            scrolled(element("table", element("thead", head), element("tbody", rows)), "Peaks by phase"),
            [paragraph(f"VRAM: {reason}", "small") for reason in reasons],
            open="",
        )
    ]
