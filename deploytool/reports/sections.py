"""The sections with words and tables: header, findings, results, errors. Each says why where it has none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from deploytool.records import Cell, RunRecord
from deploytool.reports import summary, wording
from deploytool.reports.markup import Markup, element
from deploytool.reports.parts import paragraph, scrolled, section
from deploytool.reports.table import Notes, columns_for
from deploytool.reports.wording import figure

MOST_ROWS = 30  # a longer table scrolls in a window of its own


def header(record: RunRecord) -> Markup:
    """What was measured, when, and the verdict."""
    target = record.target
    engine = " ".join(part for part in (target.engine, target.engine_version) if part)
    seconds = wording.elapsed_s(record)
    facts = [
        ("engine", engine or None),
        ("profile", target.profile),
        ("dtype", target.dtype),
        ("revision", target.model_revision),
        ("deployment", target.deployment),
        ("address", target.url),
        ("started", wording.moment(record.started_at)),
        ("took", wording.duration(seconds) if seconds is not None else None),
        ("run", record.id),
    ]
    return element(
        "header",
        paragraph(f"Load report, {wording.loop(record)}", "eyebrow"),
        element("h1", target.model),
        element(
            "p",
            element("strong", record.state, class_=f"state {record.state}"),
            " ",
            wording.verdict(record, state=False),
            class_="verdict",
        ),
        element(
            "dl",
            [element("div", element("dt", name), element("dd", value)) for name, value in facts if value],
            class_="facts",
        ),
    )


def findings(record: RunRecord, slo: str | None = None) -> Markup:
    """The figures that matter, and what follows; `slo` is a sentence on the SLO, where there is one."""
    return section(
        "summary",
        "In short",
        element("div", list(_tiles(record)), class_="tiles"),
        element(
            "ul", [element("li", sentence) for sentence in ([slo] if slo else []) + summary.sentences(record)]
        ),
    )


def _tiles(record: RunRecord) -> Iterator[Markup]:
    cells = [cell for cell in record.cells if wording.counts(cell)]
    if most := wording.best(cells, "texts_per_s"):
        yield _tile(figure(most.texts_per_s), "texts/s at most", wording.label(most))
    if most := wording.best(cells, "qps"):
        yield _tile(figure(most.qps), "QPS at most", wording.label(most))
    timed = [cell for cell in cells if cell.latency_ms.p50 is not None]
    if timed:
        lowest = min(timed, key=lambda cell: cell.latency_ms.p50 or 0.0)
        yield _tile(f"{figure(lowest.latency_ms.p50)} ms", "lowest P50", wording.label(lowest))
    errors = sum(wording.failures_by_class(record).values())
    asked = sum(cell.requests for cell in record.cells) + errors
    if asked:
        clean = "" if any(wording.flaw(cell) for cell in record.cells) else "good"
        yield _tile(f"{errors:,}", "errors", f"of {asked:,} requests", "bad" if errors else clean)
    for name, words in (("vram_peak_mib", "MiB VRAM peak"), ("rss_peak_mib", "MiB RSS peak")):
        known = [cell for cell in record.cells if getattr(cell, name) is not None]
        if known:
            top = max(known, key=lambda cell: getattr(cell, name))
            yield _tile(figure(getattr(top, name)), words, wording.label(top))
            return


def _tile(value: str, words: str, where: str, class_: str = "") -> Markup:
    return element(
        "div",
        element("b", value),
        element("span", words),
        element("small", where),
        class_=f"tile {class_}".strip(),
    )


def results(record: RunRecord) -> Markup:
    """The table of all cells, with its footnotes."""
    cells = wording.in_order(record.cells)
    if not cells:
        return section("results", "Results", paragraph(_no_cells(record), "missing"))
    notes = Notes()
    marks = [notes.mark(cell) for cell in cells]
    columns = columns_for(cells)
    heads = [
        element("th", column.long, element("small", column.unit or "\u00a0"), scope="col")
        for column in columns
    ]
    rows = [
        element(
            "tr",
            [element("td", column.show(cell)) for column in columns],
            element("td", mark, class_="note") if any(marks) else None,
            class_=_row_class(cells, number),
        )
        for number, (cell, mark) in enumerate(zip(cells, marks, strict=True))
    ]
    noted = element("th", "note", class_="note", scope="col") if any(marks) else None
    table = element("table", element("thead", element("tr", heads, noted)), element("tbody", rows))
    _, reasons = wording.memory_columns(cells)
    lines = [*(f"No VRAM figure: {reason}" for reason in reasons), *notes.lines()]
    return section(
        "results",
        "Results",
        scrolled(table, "Results of all cells", "tall" if len(cells) > MOST_ROWS else ""),
        element("ul", [element("li", line) for line in lines], class_="footnotes") if lines else None,
    )


def _row_class(cells: Sequence[Cell], number: int) -> str | None:
    first = number > 0 and cells[number - 1].batch != cells[number].batch
    words = [word for word in ("first" if first else None, wording.flaw(cells[number])) if word]
    return " ".join(words) or None


def _no_cells(record: RunRecord) -> str:
    why = f": {wording.plain(record.reason)}" if record.reason else ""
    return f"No cell has finished; the run is {record.state}{why}."


def errors(record: RunRecord) -> Markup:
    """Errors by class and cell, and the cells that did not finish."""
    classes = wording.failures_by_class(record)
    answered = sum(cell.requests for cell in record.cells)
    cut = [wording.label(cell) for cell in wording.in_order(record.cells) if cell.state != "done"]
    unfinished = (
        paragraph(f"Not finished: {wording.listed(cut)}; the notes of the table say why.") if cut else None
    )
    if not classes:
        words = f"None: all {answered:,} measured requests were answered."
        return section(
            "errors", "Errors", paragraph(words if answered else "No request was measured."), unfinished
        )
    rows = [_error_row(wording.place(cell), cell.errors, cell.requests, classes) for cell in _failing(record)]
    head = element(
        "tr",
        element("th", "cell", class_="note"),
        [element("th", name) for name in classes],
        element("th", "share"),
    )
    table = element(
        "table",
        element("thead", head),
        element("tbody", rows),
        element("tfoot", _error_row("all cells", classes, answered, classes)),
    )
    return section("errors", "Errors", unfinished, scrolled(table, "Errors by class"))


def _failing(record: RunRecord) -> list[Cell]:
    return [cell for cell in wording.in_order(record.cells) if wording.failures(cell)]


def _error_row(name: str, errors: Mapping[str, int], answered: int, classes: Iterable[str]) -> Markup:
    failed = sum(errors.values())
    return element(
        "tr",
        element("td", name, class_="note"),
        [element("td", f"{errors.get(kind, 0):,}") for kind in classes],
        element("td", wording.share(failed, failed + answered)),
    )
