"""A bake-off's table: for a terminal, as Markdown, and as CSV."""

from __future__ import annotations

import csv as csv_format
import io
import shutil
import textwrap
from collections.abc import Sequence
from typing import Any

from deploytool.decision import COLUMNS, Decision, Row
from deploytool.reports import bakeoff_words as words
from deploytool.reports.csv import safe
from deploytool.reports.markdown import escaped
from deploytool.reports.wording import plain

NARROWEST = 60
# The columns side by side on a terminal: speed, then size, then what it costs to have.
BLOCKS = (COLUMNS[:6], COLUMNS[6:12], COLUMNS[12:])


def render(decision: Decision, *, width: int | None = None) -> str:
    """For a terminal: quality, then figures in blocks, then the ranking and what is not known."""
    columns = max(NARROWEST, width or shutil.get_terminal_size((120, 24)).columns)
    lines = _wrapped(
        [words.verdict(decision), *words.datasets(decision), words.background(decision)], columns
    )
    shown = [row for row in decision.rows if row.state == "measured" or row.quality]
    if shown:
        for name in decision.datasets:
            heads = ["system", *words.TITLES.values()]
            rows = [
                [row.name, *(words.quality(words.quality_of(row, name, metric)) for metric in words.TITLES)]
                for row in shown
            ]
            lines += ["", name, *words.in_columns([heads, *rows])]
        lines += ["", *_wrapped([words.LEGEND], columns)]
        for block in BLOCKS:
            heads = ["system", *(words.head(column) for column in block)]
            rows = [
                [row.name, *(words.figure(column, row.figures.get(column.name)) for column in block)]
                for row in shown
            ]
            lines += ["", *words.in_columns([heads, *rows])]
    if decision.ranking is not None:
        heads, rows = words.ranking_rows(decision.ranking)
        lines += ["", *words.in_columns([heads, *rows])]
    for title, told in _notes(decision):
        lines += ["", title, *_wrapped([f"- {line}" for line in told], columns)]
    return "\n".join(lines) + "\n"


def _notes(decision: Decision) -> list[tuple[str, list[str]]]:
    """Headed lists of sentences, those that have any."""
    notes = [
        ("The ranking", words.ranking(decision)),
        ("Not measured", words.not_measured(decision)),
        ("Not known", words.unknowns(decision)),
        ("Remarks", words.remarks(decision)),
    ]
    return [(title, lines) for title, lines in notes if lines]


def _wrapped(lines: Sequence[str], columns: int) -> list[str]:
    return [part for line in lines for part in textwrap.wrap(plain(line), columns, subsequent_indent="  ")]


def markdown(decision: Decision) -> str:
    """One table, a row a system; what is to be said of it below."""
    lines = ["## Bake-off", "", f"**{escaped(words.verdict(decision))}**", ""]
    lines += [f"- {escaped(line)}" for line in [*words.datasets(decision), words.background(decision)]]
    qualities = words.quality_heads(decision)
    heads = ["system", *(head for _, _, head in qualities), *(words.head(column) for column in COLUMNS)]
    lines += ["", _row(heads), _row(["---", *["---:"] * (len(heads) - 1)])]
    for row in decision.rows:
        cells = [words.quality(words.quality_of(row, name, metric)) for name, metric, _ in qualities]
        cells += [words.figure(column, row.figures.get(column.name)) for column in COLUMNS]
        if row.state != "measured":
            cells[0] = row.state
        lines.append(_row([escaped(text) for text in (row.name, *cells)]))
    lines += ["", escaped(words.LEGEND)]
    if decision.ranking is not None:
        heads, rows = words.ranking_rows(decision.ranking)
        lines += [
            "",
            _row([head or " " for head in heads]),
            _row(["---:", "---", *["---:"] * (len(heads) - 2)]),
        ]
        lines += [_row([escaped(text) for text in row]) for row in rows]
    for title, told in _notes(decision):
        lines += ["", f"### {title}", "", *(f"- {escaped(line)}" for line in told)]
    lines += ["", "<details><summary>What the columns say</summary>", ""]
    lines += [f"- {escaped(words.head(column))}: {escaped(column.meaning)}" for column in COLUMNS]
    return "\n".join([*lines, "", "</details>"]) + "\n"


def _row(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"


def csv(decision: Decision) -> str:
    """RFC 4180, a row a system, full precision; empty where a value is unknown, with its reason beside it."""
    rows = [_csv_row(decision, row) for row in decision.rows]
    out = io.StringIO(newline="")
    writer = csv_format.DictWriter(out, list(rows[0]))
    writer.writeheader()
    writer.writerows({name: safe(value) for name, value in row.items()} for row in rows)
    return out.getvalue()


def _csv_row(decision: Decision, row: Row) -> dict[str, Any]:
    cells: dict[str, Any] = {
        "system": row.name,
        "kind": row.kind,
        "what": row.what,
        "state": row.state,
        "reason": row.reason,
        "measured_at": row.measured_at,
    }
    for name, metric, _ in words.quality_heads(decision):
        found = words.quality_of(row, name, metric)
        against = found.against if found else None
        stem = f"{plain(name)} {metric}"
        cells[stem] = found.value if found else None
        cells[f"{stem} low"], cells[f"{stem} high"] = found.ci95 if found else (None, None)
        cells[f"{stem} p_adjusted"] = against.p_adjusted if against else None
        cells[f"{stem} worse_than_best"] = against.real if against else None
    for column in COLUMNS:
        figure = row.figures.get(column.name)
        cells[column.name] = figure.value if figure else None
        cells[f"{column.name}_at_least"] = figure.at_least if figure else None
        cells[f"{column.name}_reason"] = figure.reason if figure else None
    if decision.ranking is not None:
        places = {one.name: place for place, one in enumerate(decision.ranking.standings, 1)}
        cells["place"] = places.get(row.name)
    return cells
