"""A run as GitHub-flavoured Markdown, fit for a pull-request comment."""

from __future__ import annotations

import re

from deploytool.records import RunRecord
from deploytool.reports import table, wording
from deploytool.reports.table import Notes, columns_for


def render(record: RunRecord) -> str:
    """Heading, verdict, table, notes; how it was measured is folded away below."""
    notes = Notes()
    cells = wording.in_order(record.cells)
    lines = [
        f"### Load of {escaped(wording.subject(record))}",
        "",
        f"**{escaped(wording.verdict(record))}** ({wording.loop(record)})",
        "",
    ]
    if cells:
        columns = columns_for(cells)
        marks = [notes.mark(cell) for cell in cells]
        heads = [f"{column.long} ({column.unit})" if column.unit else column.long for column in columns]
        rows = [[column.show(cell) for column in columns] for cell in cells]
        if any(marks):
            heads.append("note")
            rows = [[*row, mark] for row, mark in zip(rows, marks, strict=True)]
        lines += [_row(heads), _row(["---:"] * len(columns) + ["---"] * (len(heads) - len(columns)))]
        lines += [_row([escaped(text) for text in row]) for row in rows]
        lines.append("")
    lines += [f"- {escaped(note)}" for note in notes.lines()]
    lines += [""] if notes.lines() else []
    lines += ["<details><summary>How it was measured</summary>", ""]
    where = f"{wording.where(record)}; {table.heading(record)}"
    lines += [f"- {escaped(line)}" for line in [where, *table.remarks(record)]]
    lines += ["", "</details>"]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Text that Markdown shows as it is: no markup, no HTML, no mention of a person, no new table cell."""
    plain = wording.plain(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    plain = re.sub(r"([\\`*|~\[\]])", r"\\\1", plain)
    plain = re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", plain)
    return plain.replace("@", "@\u2060")


def _row(texts: list[str]) -> str:
    return f"| {' | '.join(texts)} |"
