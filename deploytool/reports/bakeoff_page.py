"""A bake-off as one HTML page: no script, no outside resource; opens offline, light or dark."""

from __future__ import annotations

from collections.abc import Sequence

from deploytool.decision import COLUMNS, Decision, Row
from deploytool.reports import bakeoff_charts as charts
from deploytool.reports import bakeoff_words as words
from deploytool.reports import page
from deploytool.reports.markup import Markup, element
from deploytool.reports.parts import paragraph, scrolled, section
from deploytool.reports.wording import figure


def html(decision: Decision) -> str:
    """The page."""
    body = element(
        "main",
        _header(decision),
        _ranking(decision),
        section("table", "The table", _table(decision), paragraph(words.LEGEND, "small")),
        _scatters(decision),
        _bars(decision),
        _by_dims(decision),
        _lists(decision),
        _meanings(),
    )
    return page.whole(
        "Bake-off: which system to deploy", body, f"from a bake-off of {len(decision.rows)} systems"
    )


def _header(decision: Decision) -> Markup:
    facts = [("Data sets", "; ".join(words.datasets(decision))), ("Measured", words.background(decision))]
    return element(
        "header",
        paragraph("Bake-off", "eyebrow"),
        element("h1", "Which system to deploy"),
        element("p", words.verdict(decision), class_="verdict"),
        element(
            "dl",
            [element("div", element("dt", name), element("dd", value)) for name, value in facts],
            class_="facts",
        ),
    )


def _ranking(decision: Decision) -> Markup | None:
    lines = words.ranking(decision)
    if not lines:
        return None
    table = None
    if decision.ranking is not None:
        heads, rows = words.ranking_rows(decision.ranking)
        table = scrolled(_plain_table(heads, rows, named=1), "Ranking")
    return section("ranking", "By the weights", table, element("ul", [element("li", line) for line in lines]))


def _plain_table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, named: int) -> Markup:
    """`named`: the column whose cells are headings of their rows."""
    return element(
        "table",
        element("thead", element("tr", [element("th", head, scope="col") for head in heads])),
        element(
            "tbody",
            [
                element(
                    "tr",
                    [
                        element("th", text, scope="row") if place == named else element("td", text)
                        for place, text in enumerate(row)
                    ],
                )
                for row in rows
            ],
        ),
    )


def _table(decision: Decision) -> Markup:
    qualities = words.quality_heads(decision)
    heads = [element("th", "system", scope="col")]
    heads += [element("th", head, scope="col") for _, _, head in qualities]
    heads += [
        element("th", column.title, element("small", column.unit), scope="col", title=column.meaning)
        for column in COLUMNS
    ]
    rows = [_table_row(decision, row) for row in decision.rows]
    table = element("table", element("thead", element("tr", heads)), element("tbody", rows), class_="named")
    return scrolled(table, "The table")


def _table_row(decision: Decision, row: Row) -> Markup:
    cells = [element("th", row.name, scope="row", title=row.what)]
    qualities = words.quality_heads(decision)
    if row.state != "measured" and not row.quality:
        words_of_it = f"{row.state}: {row.reason}"
        wide = element("td", words_of_it, class_="note", colspan=len(qualities) + len(COLUMNS))
        return element("tr", cells, wide, class_=row.state)
    for name, metric, _ in qualities:
        found = words.quality_of(row, name, metric)
        cells.append(element("td", words.quality(found), title=words.difference(found) if found else None))
    for column in COLUMNS:
        known = row.figures.get(column.name)
        cells.append(element("td", words.figure(column, known), title=known.reason if known else None))
    return element("tr", cells, class_=row.state if row.state == "failed" else None)


def _scatters(decision: Decision) -> Markup | None:
    drawn = [chart for name in decision.datasets if (chart := charts.scatter(decision, name))]
    if not drawn:
        return section(
            "scatter", "Quality against latency", paragraph("No system has both figures.", "missing")
        )
    absent = [row.name for row in decision.rows if row.quality and row.number("single_text_ms") is None]
    text = (
        "Up is better, left is faster. The area of a bubble is the memory peak; a system whose memory is not known "
        f"has a mark alone.{_largest(decision)} A word-matching baseline's latency is that of a whole search, an "
        "embedder's that of one vector."
    )
    if absent:
        text += f" Without a latency, and so not drawn: {', '.join(absent)}."
    return section("scatter", "Quality against latency", paragraph(text), _figures(drawn))


def _largest(decision: Decision) -> str:
    """What the largest bubble stands for."""
    peaks = {row.name: row.number("memory_peak_mib") or 0.0 for row in decision.rows}
    name = max(peaks, key=lambda one: peaks[one])
    return f" The largest is {figure(peaks[name])} MiB ({name})." if peaks[name] else ""


def _bars(decision: Decision) -> Markup | None:
    drawn = [
        charts.bars(decision, name, metric)
        for name in decision.datasets
        if any(name in row.quality for row in decision.rows)
        for metric in words.TITLES
    ]
    if not drawn:
        return None
    text = (
        "Whiskers are 95 % bootstrap intervals over the queries. Whether two systems differ is told by the paired "
        "test, not by whiskers that overlap."
    )
    return section("bars", "Quality with its intervals", paragraph(text), _figures(drawn, "pair"))


def _by_dims(decision: Decision) -> Markup | None:
    drawn = [chart for name in decision.datasets if (chart := charts.by_dims(decision, name))]
    if not drawn:
        return None
    text = (
        "The same vectors, cut to their first dimensions and brought to length 1 again. Dashed: systems that were "
        "not cut."
    )
    return section("dims", "Quality by the size of the vectors", paragraph(text), _figures(drawn))


def _figures(drawn: Sequence[Markup], class_: str = "stack") -> Markup:
    return element("div", [element("figure", chart) for chart in drawn], class_=class_)


def _lists(decision: Decision) -> list[Markup]:
    lists = [
        ("left-out", "Not measured", words.not_measured(decision)),
        ("unknown", "Not known", words.unknowns(decision)),
        ("remarks", "Remarks", words.remarks(decision)),
    ]
    return [
        section(name, title, element("ul", [element("li", line) for line in lines]))
        for name, title, lines in lists
        if lines
    ]


def _meanings() -> Markup:
    lines = [element("li", f"{words.head(column)}: {column.meaning}") for column in COLUMNS]
    return section("meanings", "What the columns say", element("ul", lines))
