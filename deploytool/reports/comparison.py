"""A comparison as text for a terminal and as Markdown that fits a pull-request comment."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Sequence

from deploytool.compared import CellDifference, Comparison, Figure, Judged
from deploytool.reports import wording
from deploytool.reports.junit import Case
from deploytool.reports.markdown import escaped
from deploytool.reports.wording import plain

NARROWEST = 60
MOST_CELLS_SHOWN = 24  # more are folded away in a comment
HEADLINES = ("qps", "p50", "p99")
MARKS = {"better": "better", "worse": "WORSE", "same": "", "unknown": "?"}
INTERVAL = "interval of the change"


def render(comparison: Comparison, *, width: int | None = None) -> str:
    """For a terminal: a line a figure, the noise, and the conditions that failed."""
    columns = max(NARROWEST, width or shutil.get_terminal_size((120, 24)).columns)
    lines = []
    for line in (*_sides(comparison), verdict(comparison)):
        lines += textwrap.wrap(plain(line), columns, subsequent_indent="  ") or [""]
    lines += ["", *_table(comparison), ""]
    for line in (*_excluded(comparison), *_remarks(comparison), *_rulings(comparison)):
        lines += textwrap.wrap(plain(line), columns, subsequent_indent="  ") or [""]
    return "\n".join(lines) + "\n"


def markdown(comparison: Comparison) -> str:
    """For a pull request: verdict, failed conditions, the headline figures; the rest folded away."""
    lines = [f"### Load compared: {escaped(verdict(comparison))}", ""]
    lines += [f"- {escaped(line)}" for line in _rulings(comparison)]
    lines += [f"- {escaped(line)}" for line in (*_excluded(comparison), *_changed(comparison))]
    lines += [""] if lines[-1] else []
    compared = [cell for cell in comparison.cells if cell.excluded is None]
    table = _markdown_table(compared)
    if len(compared) > MOST_CELLS_SHOWN:
        table = [f"<details><summary>{len(compared)} cells</summary>", "", *table, "", "</details>"]
    lines += [*table, ""]
    lines += ["<details><summary>All figures, and how they were compared</summary>", ""]
    heads = ("cell", "figure", "baseline", "now", "change", INTERVAL, "")
    lines += [_row(heads), "|---|---|---:|---:|---:|---:|---|"]
    lines += [_row([escaped(text) for text in row]) for row in _rows(compared)]
    lines += ["", *(f"- {escaped(line)}" for line in (*_sides(comparison), *_remarks(comparison)))]
    lines += ["", "</details>"]
    return "\n".join(lines) + "\n"


def cases(comparison: Comparison) -> list[Case]:
    """One test case a condition and cell; without conditions one a figure that can tell, always passed."""
    passed = {"ok": True, "within_noise": True, "failed": False, "skipped": None}
    return [
        Case(f"{one.threshold} [{one.cell}]", passed[one.ruling], one.why) for one in comparison.judged
    ] or [
        Case(f"{figure.title} [{cell.cell}]", None if figure.beyond_noise is None else True, change(figure))
        for cell in comparison.cells
        for figure in cell.figures
    ]


def verdict(comparison: Comparison) -> str:
    """The whole comparison in one line."""
    figures = [figure for cell in comparison.cells for figure in cell.figures]
    compared = sum(cell.excluded is None for cell in comparison.cells)
    counts = {kind: sum(figure.verdict == kind for figure in figures) for kind in ("better", "worse")}
    told = [f"{number} {kind}" for kind, number in counts.items() if number]
    words = f"{' and '.join(told)} beyond noise" if told else "no change beyond noise"
    words += f" ({wording.counted(sum(f.beyond_noise is not None for f in figures), 'figure')}"
    words += f" of {wording.counted(compared, 'cell')})"
    if not comparison.judged:
        return words
    failed = len(comparison.failed)
    return f"{'failed' if failed else 'passed'}, {wording.counted(failed, 'condition')} not held; {words}"


def change(figure: Figure) -> str:
    """As "+12.3 %" or "+0.4 points"; why there is none where it is not known."""
    if figure.change is None:
        return figure.reason or wording.UNKNOWN
    return f"{signed(figure.change)} {'%' if figure.change_unit == '%' else 'points'}"


def signed(value: float) -> str:
    """A change with its sign: +12.3, -0.04, +230."""
    size = abs(value)
    digits = 0 if size >= 99.5 else 1 if size >= 0.95 or size == 0 else 2
    return f"{value:+,.{digits}f}"


def _sides(comparison: Comparison) -> Iterator[str]:
    for name, side in (("baseline", comparison.baseline), ("now", comparison.current)):
        runs = ", ".join(side.runs)
        yield f"{name}: run {runs}, {wording.moment(side.started_at)}: {side.subject}"


def _changed(comparison: Comparison) -> Iterator[str]:
    if comparison.unlike:
        yield f"UNLIKE WORK, compared by force: {'; '.join(comparison.unlike)}"
    if comparison.changed:
        yield f"changed between them: {'; '.join(comparison.changed)}"


def _excluded(comparison: Comparison) -> Iterator[str]:
    for cell in comparison.cells:
        if cell.excluded is not None:
            yield f"{cell.cell} is not compared: {cell.excluded}"


def _remarks(comparison: Comparison) -> Iterator[str]:
    yield from _changed(comparison)
    each = 100 * comparison.each
    yield (
        f"Intervals hold together with {100 * comparison.confidence:g} % confidence "
        f"({each:.{_digits(each)}f} % each). Noise: {comparison.noise}."
    )
    for warning in comparison.warnings:
        yield f"warning: {warning}"


def _digits(percent: float) -> int:
    return 1 if percent < 99 else 2 if percent < 99.9 else 3


def _rulings(comparison: Comparison) -> Iterator[str]:
    for one in comparison.judged:
        if one.ruling in ("failed", "within_noise"):
            word = "FAILED" if one.ruling == "failed" else "held"
            yield f"{word} {one.threshold} [{one.cell}]: {one.why}"
    skipped = [one for one in comparison.judged if one.ruling == "skipped"]
    yield from (f"skipped {one.threshold} [{one.cell}]: {one.why}" for one in _first_of_each(skipped))


def _first_of_each(judged: Sequence[Judged]) -> list[Judged]:
    seen: dict[tuple[str, str], Judged] = {}
    for one in judged:
        seen.setdefault((one.threshold, one.why), one)
    return list(seen.values())


def _rows(cells: Sequence[CellDifference]) -> Iterator[tuple[str, ...]]:
    for cell in cells:
        for figure in cell.figures:
            span = wording.UNKNOWN
            if figure.low is not None and figure.high is not None:
                span = f"{signed(figure.low)} to {signed(figure.high)}"
            yield (
                cell.cell,
                f"{figure.title} ({figure.unit})" if figure.unit != figure.title else figure.title,
                wording.figure(figure.baseline),
                wording.figure(figure.current),
                change(figure) if figure.change is not None else wording.UNKNOWN,
                span,
                MARKS[figure.verdict] if figure.change is not None else (figure.reason or "?"),
            )


def _table(comparison: Comparison) -> list[str]:
    rows = list(_rows([cell for cell in comparison.cells if cell.excluded is None]))
    if not rows:
        return ["no cell could be compared"]
    heads = ("cell", "figure", "baseline", "now", "change", INTERVAL, "")
    widths = [max(len(row[index]) for row in (heads, *rows)) for index in range(len(heads) - 1)]
    lines, last = [], ""
    for row in (heads, *rows):
        parts = [row[0].ljust(widths[0]) if row[0] != last else " " * widths[0], row[1].ljust(widths[1])]
        parts += [row[index].rjust(widths[index]) for index in range(2, len(widths))]
        lines.append("  ".join([*parts, row[-1]]).rstrip())
        last = row[0]
    return lines


def _markdown_table(cells: Sequence[CellDifference]) -> list[str]:
    """One row a cell with the headline figures, memory and errors where there are any."""
    extra = [
        name
        for name in ("errors", "vram", "rss")
        if any((figure := cell.figure(name)) and (figure.current or figure.baseline) for cell in cells)
    ]
    names = [*HEADLINES, *(extra[:-1] if "vram" in extra and "rss" in extra else extra)]
    titles = {f.metric: f.title for cell in cells for f in cell.figures}
    lines = [_row(["cell", *(titles.get(name, name) for name in names)]), "|---|" + "---:|" * len(names)]
    for cell in cells:
        texts = [_short(cell.figure(name)) for name in names]
        lines.append(_row([escaped(cell.cell), *texts]))
    return lines if cells else ["No cell could be compared."]


def _short(figure: Figure | None) -> str:
    """As "61.3 -> 49.0 (**-20.1 %**)"; bold is beyond noise."""
    if figure is None:
        return wording.UNKNOWN
    if figure.change is None:
        return f"{wording.figure(figure.baseline)} → {wording.figure(figure.current)}"
    words = change(figure)
    words = f"**{words} {figure.verdict}**" if figure.beyond_noise else words
    return f"{wording.figure(figure.baseline)} → {wording.figure(figure.current)} ({words})"


def _row(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"
