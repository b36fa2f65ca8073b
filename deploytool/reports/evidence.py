"""What speaks for a run's figures: the answers that were looked into, the server's own word, and the client."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from deploytool.records import Cell, RunRecord
from deploytool.reports import wording
from deploytool.reports.markup import Markup, element
from deploytool.reports.parts import paragraph, scrolled, section
from deploytool.reports.wording import UNKNOWN, figure

MOST_ROWS = 30  # a longer table scrolls in a window of its own
Column = tuple[str, Callable[[Cell], str]]


def draw(record: RunRecord) -> Markup:
    """Two tables; a column that no cell has anything for is left out."""
    cells = [cell for cell in wording.in_order(record.cells) if cell.requests]
    drawn = [
        made
        for title, columns in (("Answers", ANSWERS), ("Server", SERVER), ("Load generator", CLIENT))
        if (made := _table(title, columns, cells)) is not None
    ]
    body = drawn or [paragraph("No answer was looked into, and no metric was read.", "missing")]
    words = (
        "Some answers of each cell are looked into after it: shape, finite numbers, norms, and the cosine of a "
        "text's vector to that of the same text sent alone. Beside it stand the target's own metrics and how "
        "the load generator fared."
    )
    return section("evidence", "What came back, and who measured", paragraph(words), body, _reasons(cells))


def _table(title: str, columns: Sequence[Column], cells: Sequence[Cell]) -> Markup | None:
    shown = [column for column in columns if any(column[1](cell) != UNKNOWN for cell in cells)]
    if not shown:
        return None
    head = element(
        "tr",
        element("th", "cell", class_="note", scope="col"),
        [element("th", name, scope="col") for name, _ in shown],
    )
    rows = [
        element(
            "tr",
            element("td", wording.label(cell), class_="note"),
            [element("td", show(cell)) for _, show in shown],
            class_=wording.flaw(cell),
        )
        for cell in cells
    ]
    caption = element("caption", title)
    table = element("table", caption, element("thead", head), element("tbody", rows))
    return scrolled(table, title, "tall" if len(cells) > MOST_ROWS else "")


def _reasons(cells: Sequence[Cell]) -> list[Markup]:
    said = dict.fromkeys(reason for cell in cells for reason in _missing(cell))
    return [paragraph(reason, "small") for reason in said]


def _missing(cell: Cell) -> Iterator[str]:
    if cell.server is not None and cell.server.reason:
        yield f"The server's metrics: {cell.server.reason}."
    if cell.answers is not None and cell.answers.other_encoding_reason:
        yield f"Float against base64: {cell.answers.other_encoding_reason}."


def _checked(cell: Cell) -> str:
    if cell.answers is None or not cell.answers.answers:
        return UNKNOWN
    wrong = f", {cell.answers.wrong} wrong" if cell.answers.wrong else ""
    return f"{cell.answers.answers}{wrong}"


def _cosine(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.6f}"


def _norms(cell: Cell) -> str:
    if cell.answers is None or cell.answers.norm_min is None or cell.answers.norm_max is None:
        return UNKNOWN
    low, high = f"{cell.answers.norm_min:.4f}", f"{cell.answers.norm_max:.4f}"
    return low if low == high else f"{low} to {high}"


def _tokens(cell: Cell) -> str:
    found = cell.answers
    if found is None or found.tokens_counted is None or found.tokens_intended is None:
        return UNKNOWN
    return f"{found.tokens_counted:,} of {found.tokens_intended:,}"


def _bytes(value: int | None) -> str:
    return UNKNOWN if value is None else f"{value:,}"


def _mean_and_most(cell: Cell, name: str) -> str:
    mean = getattr(cell.server, f"{name}_mean", None)
    return UNKNOWN if mean is None else f"{figure(mean)} / {figure(getattr(cell.server, f'{name}_max'))}"


def _worst(cell: Cell, name: str) -> str:
    values = [value for one in cell.client if (value := getattr(one, name)) is not None]
    return figure(max(values)) if values else UNKNOWN


def _workers(cell: Cell) -> str:
    named = [one.host + (" (lost)" if one.lost else "") for one in cell.client if one.host]
    return ", ".join(named) or UNKNOWN


ANSWERS: tuple[Column, ...] = (
    ("looked into", _checked),
    ("lowest cosine", lambda cell: _cosine(cell.answers.cosine_min if cell.answers else None)),
    ("norm", _norms),
    ("tokens, counted of intended", _tokens),
    ("bytes an answer", lambda cell: _bytes(cell.response_bytes)),
    (
        "float to base64, cosine",
        lambda cell: _cosine(cell.answers.other_encoding_cosine if cell.answers else None),
    ),
)
SERVER: tuple[Column, ...] = (
    ("queue, mean / most", lambda cell: _mean_and_most(cell, "queue")),
    ("running, mean / most", lambda cell: _mean_and_most(cell, "running")),
    ("tokens/s by its count", lambda cell: figure(cell.server.tokens_per_s if cell.server else None)),
    ("tokens/s by the answers", lambda cell: figure(cell.tokens_per_s)),
    ("GPU utilisation, %", lambda cell: figure(cell.gpu_utilisation_percent)),
    ("power peak, W", lambda cell: figure(cell.power_peak_w)),
    ("J for 1M tokens", lambda cell: figure(cell.energy_j_per_1m_tokens)),
)
CLIENT: tuple[Column, ...] = (
    ("CPU, % of a core", lambda cell: figure(cell.client_cpu_percent)),
    ("lag P50, ms", lambda cell: _worst(cell, "lag_p50_ms")),
    ("lag P99, ms", lambda cell: _worst(cell, "lag_p99_ms")),
    ("ceiling, QPS", lambda cell: figure(cell.null.ceiling_qps if cell.null else None)),
    ("adds, ms", lambda cell: figure(cell.null.added_ms if cell.null else None)),
    ("workers", _workers),
    ("clocks known to, ms", lambda cell: _worst(cell, "clock_uncertain_ms")),
)
