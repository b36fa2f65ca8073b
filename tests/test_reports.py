"""Reports of example runs: golden tables; HTML that is well formed, escaped, self-contained, and true.

UPDATE_GOLDEN=1 writes the golden files anew; look at what changed before keeping it.
"""

from __future__ import annotations

import base64
import csv as csv_format
import hashlib
import io
import os
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from example_runs import (
    GRID,
    HOSTILE,
    LARGE_GRID,
    Row,
    card_run,
    cpu_run,
    empty_run,
    hostile_run,
    large_run,
    memory_rows,
    open_run,
    request_rows,
)
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from deploytool.errors import InvalidFile, Problem
from deploytool.loadgen import validity
from deploytool.loadgen.measured import Samples
from deploytool.records import ClientProcess, PhaseMemory, RunRecord
from deploytool.reports import (
    csv,
    html,
    markdown,
    openmetrics,
    phases,
    slo,
    spread,
    summary,
    svg,
    table,
    wording,
)
from deploytool.reports.reduction import PER_DECADE, histograms, timeline
from deploytool.thresholds import parse_slo

GOLDEN = Path(__file__).parent / "golden" / "reports"
RUNS: dict[str, Callable[[], RunRecord]] = {
    "cpu": cpu_run,
    "card": card_run,
    "empty": empty_run,
    "hostile": hostile_run,
    "large": large_run,
    "open": open_run,
    "one": lambda: cpu_run([(8, 4)]),
}


def page(name: str) -> str:
    """The page of an example run with the rows that belong to it."""
    grid = {"large": LARGE_GRID, "one": [(8, 4)], "empty": [], "open": [], "hostile": [(1, 1), (1, 4)]}.get(
        name, GRID
    )
    if not grid:
        return html.render(RUNS[name](), None, None)
    return html.render(RUNS[name](), request_rows(grid), memory_rows(grid, card=name == "card"))


def golden(name: str, text: str) -> None:
    path = GOLDEN / name
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", ["cpu", "card", "empty"])
def test_the_table_is_the_golden_one(name: str, width: int) -> None:
    golden(f"{name}-{width}.txt", table.render(RUNS[name](), width=width))


@pytest.mark.parametrize("name", ["cpu", "card", "empty"])
def test_the_markdown_is_the_golden_one(name: str) -> None:
    golden(f"{name}.md", markdown.render(RUNS[name]()))


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", ["cpu", "card", "empty", "large", "one"])
def test_the_table_fits_the_terminal(name: str, width: int) -> None:
    lines = table.render(RUNS[name](), width=width).splitlines()
    assert max(map(len, lines)) <= width
    assert "closed loop" in "\n".join(lines)


def test_a_narrow_table_says_what_it_left_out() -> None:
    text = table.render(card_run(), width=80)
    assert "P90 and P95 left out: the terminal is 80 columns wide." in text
    assert "left out" not in table.render(card_run(), width=120)


def test_a_run_without_any_memory_has_no_memory_column() -> None:
    record = cpu_run()
    record.cells = [cell.model_copy(update={"rss_peak_mib": None}) for cell in record.cells]
    text = table.render(record, width=120)
    assert "RSS" not in text
    assert text.count("No VRAM figure: no NVIDIA driver") == 1


def test_notes_on_percentiles_that_no_table_shows_are_left_out() -> None:
    record = cpu_run([(1, 1), (8, 1)])
    first, second = record.cells
    first.notes = ["too few samples for P99.9 (needs 3688)"]
    second.notes = ["too few samples for P99 (needs 100), P99.9 (needs 3688)"]
    text = table.render(record, width=120)
    assert "[1] too few samples for P99 (needs 100)\n" in text
    assert "P99.9" not in text


@pytest.mark.parametrize("render", [table.render, markdown.render, csv.render], ids=["table", "md", "csv"])
def test_no_text_of_others_steers_a_terminal(render: object) -> None:
    text = render(hostile_run())  # type: ignore[operator]
    assert "alert(1)" in text
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202e]", text)


def test_markdown_holds_no_markup_of_others() -> None:
    text = markdown.render(hostile_run())
    assert "<script" not in text
    assert set(re.findall(r"</?\w+", text)) == {"<details", "<summary", "</summary", "</details"}
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    bars = {len(re.findall(r"(?<!\\)\|", row)) for row in rows}
    assert len(rows) == 5
    assert len(bars) == 1
    assert markdown.escaped("ask @someone in org/snake_case _now_") == (
        "ask @\u2060someone in org/snake_case \\_now\\_"
    )


def test_csv_has_every_figure_in_full() -> None:
    record = card_run()
    rows = list(csv_format.DictReader(io.StringIO(csv.render(record))))
    assert len(rows) == len(record.cells) == 9
    for row, cell in zip(rows, wording.in_order(record.cells), strict=True):
        assert (int(row["batch"]), int(row["concurrency"])) == (cell.batch, cell.concurrency)
        assert float(row["qps"]) == cell.qps
        for name in ("p50", "p99", "max"):
            value = getattr(cell.latency_ms, name)
            assert row[f"latency_{name}_ms"] == ("" if value is None else repr(value))
    assert rows[3]["errors"] == "44"
    assert rows[3]["errors_by_class"] == "timeout=3; http_503=41"
    assert rows[2]["validity"] == "void"
    assert rows[8]["state"] == "failed"
    assert csv.render(empty_run()).splitlines() == [",".join(rows[0])]


@pytest.mark.parametrize("name", RUNS)
def test_openmetrics_is_read_by_a_reader(name: str) -> None:
    """What an endpoint says cannot end a label, and nought stands for no unknown."""
    record = RUNS[name]()
    text = openmetrics.render(record)
    families = list(text_string_to_metric_families(text))  # type: ignore[no-untyped-call]
    assert families[0].name == "deploytool_load_run"
    samples = [sample for family in families for sample in family.samples]
    verdicts = [s for s in samples if s.name == "deploytool_load_verdict" and s.value]
    assert len(verdicts) == len(record.cells)
    assert not any(sample.timestamp for sample in samples), "a Pushgateway refuses timestamps"
    assert {s.labels["model"] for s in samples} == {wording.plain(record.target.model)}
    p99 = [s for s in samples if s.name.endswith("latency_seconds") and s.labels.get("percentile") == "99"]
    assert len(p99) == sum(cell.latency_ms.p99 is not None for cell in record.cells)


def test_openmetrics_has_the_figures() -> None:
    record = card_run()
    lines = openmetrics.render(record).splitlines()
    where = 'engine="sglang",profile="a10g",mode="closed",batch="1",concurrency="1"'
    cell = record.cells[0]
    assert cell.latency_ms.p50 is not None
    who = f'model="qwen3-4b",target="qwen",{where}'
    assert f"deploytool_load_requests_per_second{{{who}}} {cell.qps!r}" in lines
    assert f'deploytool_load_latency_seconds{{{who},percentile="50"}} {cell.latency_ms.p50 / 1000!r}' in lines
    assert f'deploytool_load_verdict{{{who},verdict="valid"}} 1.0' in lines
    void = [line for line in lines if 'verdict="void"} 1.0' in line]
    assert len(void) == 1
    assert 'concurrency="16"' in void[0]


def test_an_slo_is_told_of_every_cell_as_far_as_its_samples_can() -> None:
    """The upper end of the interval must hold; where only the lower one does, nobody can tell."""
    cell = cpu_run().cells[1]
    assert cell.latency_ms.p99 is not None
    low, high = cell.latency_ci95_ms["p99"]
    assert low < cell.latency_ms.p99 < high

    def ruling(text: str, **changes: object) -> str | None:
        return slo.judge(cell.model_copy(update=changes), parse_slo(text))

    assert ruling(f"p99<={high + 1}ms") == "holds"
    assert ruling(f"p99<={(cell.latency_ms.p99 + high) / 2}ms") == "unsure"
    assert ruling(f"p99<={low / 2}ms") == "breaks"
    assert ruling("p99.9<=1s") == ("unsure" if cell.latency_ms.p999 is None else "holds")
    assert ruling(f"p99<={high + 1}ms", adjusted_ms={"p99": "infinite"}) == "breaks"
    assert ruling("p50<=1s,errors<=1%", errors={"timeout": cell.requests}) == "breaks"
    assert ruling("p50<=1s", state="failed") is None
    assert slo.sentence(cpu_run(), ()) is None


def test_the_page_shows_the_slo_intervals_and_evidence() -> None:
    record = card_run()
    told = html.render(record, request_rows(GRID), memory_rows(GRID, card=True), parse_slo("p99<=150ms"))
    assert "SLO p99&lt;=150ms" in told
    assert "over SLO" in told
    assert told.count('class="slo"') == 1, "one chart has P99"
    whiskers = re.findall(r'd="M[\d.]+ [\d.]+h8M', told)
    assert len(whiskers) >= 5
    evidence = told[told.index('id="evidence"') :]
    for words in ("168 of 170", "0.999981", "5,200", "4,100", "the server answered float"):
        assert words in evidence
    plain = html.render(cpu_run(), None, None)
    assert 'class="slo"' not in plain
    assert "The SLO" not in plain
    record.request["capacity"] = {"slo": "p99<=9ms"}
    assert "The SLO p99&lt;=9ms" in html.render(record, None, None)


def test_an_open_loop_is_told_by_its_rates() -> None:
    record = open_run()
    told = html.render(record, None, None)
    assert "Batch size against rate" in told
    assert told.count('<th scope="col">400/s</th>') == 4
    assert "c16" not in told
    assert table.render(record, width=120).splitlines()[4].split()[:2] == ["batch", "rate"]
    sentences = " ".join(summary.sentences(record))
    assert "At batch 8 the server kept up with 200 requests/s" in sentences
    assert "clients" not in sentences


def test_csv_is_no_formula() -> None:
    record = cpu_run([(1, 1)])
    record.target.model = "=HYPERLINK(1)"
    (row,) = csv_format.DictReader(io.StringIO(csv.render(record)))
    assert row["model"] == "'=HYPERLINK(1)"


class Page(HTMLParser):
    """Elements with their attributes, texts, and whether every element is closed where it must be."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"{tag} repeats an attribute"
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.texts)


WORDS = "html head meta title style body main header section footer h1 h2 p ul li dl dt dd div span b strong"
TABLES = "table caption thead tbody tfoot tr th td small"
DRAWINGS = "figure details summary svg desc path line rect text"
TAGS = {*WORDS.split(), *TABLES.split(), *DRAWINGS.split()}


@pytest.mark.parametrize("name", RUNS)
def test_the_page_is_well_formed(name: str) -> None:
    text = page(name)
    parsed = Page(text)
    assert text.startswith("<!DOCTYPE html>")
    assert {tag for tag, _ in parsed.tags} <= TAGS
    drawings = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(drawings) == sum(tag == "svg" for tag, _ in parsed.tags)
    for drawing in drawings:
        root = ElementTree.fromstring(drawing)  # noqa: S314 - our own text
        width, height = (float(part) for part in root.attrib["viewBox"].split()[2:])
        for shape in root.iter():
            for attribute, most in (("x", width), ("y", height), ("x1", width), ("y2", height)):
                assert 0 <= float(shape.attrib.get(attribute, 0)) <= most, shape.attrib
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert ids == [
        "summary",
        "results",
        "curve",
        "maps",
        "spread",
        "memory",
        "evidence",
        "errors",
        "method",
        "environment",
    ]


@pytest.mark.parametrize("name", RUNS)
def test_the_page_needs_and_reaches_nothing_outside(name: str) -> None:
    text = page(name)
    parsed = Page(text)
    style = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    assert len(style) == 1
    assert not re.search(r"url\(|@import|expression", style[0])
    for tag, attributes in parsed.tags:
        assert not {"src", "href", "xlink:href", "srcset", "style", "action"} & attributes.keys(), tag
        assert not [attribute for attribute in attributes if attribute.startswith("on")], tag
    policy = next(a["content"] for _, a in parsed.tags if a.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(style[0].encode()).digest()).decode()
    assert policy is not None
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}';")


def test_what_others_wrote_is_shown_and_does_nothing() -> None:
    parsed = Page(page("hostile"))
    shown = wording.plain(HOSTILE)
    assert "<script>alert(1)</script>" in shown
    assert parsed.text.count(shown) > 10
    assert all(tag != "script" for tag, _ in parsed.tags)
    for render in (table.render, markdown.render, csv.render):
        assert render(hostile_run())


def test_the_page_tells_the_record() -> None:
    parsed = Page(page("card"))
    for part in (
        "qwen3-4b",
        "sglang 0.5.23",
        "a10g",
        "7 of 9 cells, 1,244 errors, 1 void, 1 suspect, peak 799 QPS at b1 c4",
        "the server ended with signal 9 (SIGKILL)",
        "2026-02-03 10:11 UTC",
        "VRAM in use, MiB",
        "GPU utilisation, %",
        "nearest-rank",
        "b32 c16",
    ):
        assert part in parsed.text, part
    assert parsed.text.count("void") > 4  # the table, the maps, the spread, the words


def test_raw_samples_that_differ_from_the_table_are_said() -> None:
    assert "as many as the table counts" in page("cpu")
    fewer = html.render(cpu_run(), (row for row in request_rows(GRID) if row["cell"] != "b8 c4"), None)
    counted = sum(cell.requests for cell in cpu_run().cells)
    assert f"the table counts {counted:,}" in fewer


def test_missing_and_damaged_samples_cost_their_section_only() -> None:
    def damaged() -> object:
        yield from list(request_rows([(1, 1)]))[:5]
        raise InvalidFile([Problem(Path("samples.parquet"), None, "", "page 3 is broken")])

    text = html.render(cpu_run(), damaged(), None)  # type: ignore[arg-type]
    assert (
        "The raw samples cannot be read. 1 problem in samples.parquet. samples.parquet: page 3 is broken"
        in text
    )
    assert "No raw samples of memory are kept with this run." in text
    assert "Latency against throughput" in text
    nothing = html.render(cpu_run(), [], [])
    assert "The raw samples hold no answered request." in nothing
    assert "The memory samples hold no readings to draw." in nothing


def test_every_section_of_an_empty_run_says_why_it_is_empty() -> None:
    parsed = Page(page("empty"))
    missing = [attributes for _, attributes in parsed.tags if attributes.get("class") == "missing"]
    assert len(missing) == 7
    assert "the endpoint refused every request" in parsed.text
    assert not [tag for tag, _ in parsed.tags if tag == "svg"]


def test_a_rate_that_was_not_measured_is_no_zero() -> None:
    record = cpu_run([(1, 1), (8, 1)])
    dead = record.cells[1].model_copy(
        update={"state": "failed", "duration_s": 0.0, "qps": 0.0, "texts_per_s": 0.0, "requests": 0}
    )
    record.cells[1] = dead
    line = next(line for line in table.render(record, width=120).splitlines() if "failed" in line)
    assert line.split()[:6] == ["8", "1", "0", "0", "-", "-"]
    (_, row) = csv_format.DictReader(io.StringIO(csv.render(record)))
    assert (row["requests"], row["qps"], row["texts_per_s"]) == ("0", "", "")
    assert "Not finished: b8 c1; the notes of the table say why." in html.render(record, None, None)


def test_void_and_unfinished_cells_stand_for_no_peak() -> None:
    record = cpu_run()
    best = wording.best(record.cells, "qps")
    assert best is not None
    for flaw in ({"state": "interrupted"}, {"validity": {"verdict": "void", "reasons": ["lag"]}}):
        cells = [
            type(cell).model_validate(cell.model_dump() | flaw) if cell.qps == best.qps else cell
            for cell in record.cells
        ]
        other = wording.best(cells, "qps")
        assert other is not None
        assert other.qps < best.qps


def test_the_summary_follows_from_the_figures() -> None:
    said = summary.sentences(cpu_run())
    assert said[0].startswith(
        "Most throughput: 2,342 texts/s (73.2 QPS) at batch 32, concurrency 4; there, half"
    )
    assert "too few requests for a P99" in said[0]
    assert "At batch 32, 4 clients reach what the server can give; with 16, a request takes 4.0" in said[2]
    assert "requests of 32 texts embed 2.93 times as many texts per second as requests of 1" in said[3]
    assert any(line.startswith("All 12,735 measured requests were answered") for line in said)
    growing = summary.sentences(cpu_run([(1, 1), (1, 2)]))
    assert any("still grew up to concurrency 2" in line for line in growing)
    failed = summary.sentences(card_run())
    assert any("1,244 of 13,613 measured requests failed (9.14 %)" in line for line in failed)
    assert summary.sentences(empty_run())[1] == "No request was answered."
    spoilt = cpu_run([(1, 1)])
    late = [ClientProcess(cpu_percent=11.5, lag_p50_ms=0.4, lag_p99_ms=104.2, lag_max_ms=140)]
    cell = spoilt.cells[0].model_copy(update={"client": late})
    verdict = validity.judge(cell, Samples(), None, PhaseMemory(phase="load"), None)
    assert "late by 0.4 ms at P50 and 104 ms at P99: much of the latencies" in verdict.reasons[0]
    told = [late[0].model_copy(update={"arrivals_told": True})]  # a late reader adds nothing then
    verdict_of = [
        validity.judge(
            cell.model_copy(update={"client": told, **more}), Samples(), None, PhaseMemory(phase="load"), None
        )
        for more in ({}, {"mode": "open"}, {"client": [told[0].model_copy(update={"lag_p50_ms": 20.0})]})
    ]
    assert [one.verdict for one in verdict_of] == ["valid", "void", "void"]
    assert "asked again later than they should" in verdict_of[2].reasons[0]
    spoilt.cells = [cell.model_copy(update={"validity": verdict})]
    said = summary.sentences(spoilt)
    assert "No cell counts." in said and "No request was answered." not in said


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"), (float("nan"), "-"), (float("inf"), "-"), (0, "0"), (0.0312, "0.0312"), (0.6, "0.600"),
        (1, "1.00"), (9.996, "10.0"), (61.34, "61.3"), (99.96, "100"), (1234.6, "1,235"), (-2.5, "-2.50"),
    ],
)  # fmt: skip
def test_figures_have_three_digits(value: float | None, text: str) -> None:
    assert wording.figure(value) == text


def test_words_for_times_and_shares() -> None:
    assert [wording.duration(value) for value in (None, 0.5, 20, 204, 7500)] == [
        "-", "0.5 s", "20 s", "3 min 24 s", "2 h 05 min"
    ]  # fmt: skip
    assert wording.milliseconds(12_345) == "12.3 s"
    assert wording.share(1, 100_000) == "<0.1 %"
    assert wording.moment("2026-02-03T12:11:00+02:00") == "2026-02-03 10:11 UTC"
    assert wording.moment("yesterday") == "yesterday"


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 61.3), (18_200, 19_700), (0, 1e6), (0.2, 0.9)])
def test_linear_ticks_are_round_and_within(low: float, high: float) -> None:
    ticks = svg.Scale(low, high, 0, 100).ticks(6)
    assert 2 <= len(ticks) <= 7
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)
    assert ticks == sorted(set(ticks))


@pytest.mark.parametrize(("low", "high"), [(4, 60), (0.8, 9000), (1, 1e7), (13, 14)])
def test_log_ticks_are_within(low: float, high: float) -> None:
    ticks = svg.Scale(low, high, 0, 100, log=True).ticks(6)
    assert len(ticks) <= 6
    assert all(low <= tick <= high for tick in ticks)


def test_a_scale_maps_its_ends() -> None:
    for log in (False, True):
        scale = svg.Scale(2, 200, 50, 450, log=log)
        assert (round(scale(2), 6), round(scale(200), 6)) == (50, 450)
    assert svg.Scale(2, 200, 50, 450, log=True)(20) == pytest.approx(250)


def test_histograms_count_each_measured_success_once() -> None:
    rows: list[Row] = [*request_rows([(1, 4)]), *request_rows([(8, 1)])]
    rows += [row | {"error": "timeout"} for row in rows[:50]]
    found = histograms(rows)
    assert set(found) == {(1, 4), (8, 1)}
    for key, histogram in found.items():
        name = f"b{key[0]} c{key[1]}"
        good = [r for r in rows if r["cell"] == name and r["phase"] == "measure" and r["error"] is None]
        assert histogram.count == sum(histogram.buckets.values()) == len(good)
    one = histograms([rows[5] | {"latency_ns": 1_000_000}])
    assert one[1, 4].buckets == {0: 1}
    assert histograms([rows[5] | {"latency_ns": 10_000_000}])[1, 4].buckets == {PER_DECADE: 1}


def test_the_timeline_keeps_peaks_gaps_and_pauses() -> None:
    rows = list(memory_rows([(1, 1)], card=True, seconds=600))
    rows[3333]["vram_used_mib"] = 24_000.0
    for row in rows[1000:2000]:
        row["vram_used_mib"] = None
    found = timeline(rows)
    used = next(one for one in found.series if one.panel == "vram" and not one.part)
    segments = used.segments()
    assert len(segments) == 2
    assert sum(map(len, segments)) <= 701
    assert max(value for part in segments for _, value in part) == 24_000
    assert [name for name, _, _ in found.phases] == ["idle", "loaded", "load b1 c1"]
    assert found.readings == len(rows)
    resumed = timeline(rows + [row | {"time_ns": row["time_ns"] - 10**12} for row in rows])
    assert len(resumed.cuts) == 1
    assert resumed.end_s == pytest.approx(2 * found.end_s + 1)


def test_two_cards_have_a_line_each_and_share_the_processes() -> None:
    one = list(memory_rows([(1, 1)], card=True))
    rows = [row | {"device": device} for row in one for device in (0, 1)]
    found = timeline(rows)
    assert found.devices == [0, 1]
    assert len([series for series in found.series if series.panel == "rss"]) == 1
    assert len(next(series for series in found.series if series.panel == "rss").values) == len(one)
    drawn = phases.draw(found)
    assert drawn is not None
    assert "GPU 0" in drawn
    assert "GPU 1" in drawn
    assert "dashed: of the server" in drawn


def test_all_distributions_share_a_scale() -> None:
    record: RunRecord = cpu_run()
    drawings = spread.draw(record.cells, histograms(request_rows(GRID)))
    assert len(drawings) == 3
    axes = [re.findall(r'text-anchor="middle"[^>]*>([\d,.]+)<', drawing) for drawing in drawings]
    assert axes[0] == axes[1] == axes[2] != []
