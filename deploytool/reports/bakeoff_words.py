"""What all reports of a bake-off say in the same words: figures, marks, remarks, the ranking."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deploytool.decision import COLUMNS, RANKED_BY, Column, Decision, Figure, Quality, Row
from deploytool.reports import wording
from deploytool.weighing import Ranking

TITLES = {"recall@1": "R@1", "recall@5": "R@5", "mrr@10": "MRR@10"}
BEST, ALIKE = "*", "="
LEGEND = (
    f"{BEST} the best; {ALIKE} not shown to be worse than the best by these queries (paired permutation test, "
    "Holm over all systems, 5 %); no mark: the difference is real. ±: half of the 95 % bootstrap interval."
)
WHOLE = frozenset({"dims", "bytes_per_vector", "slo_concurrency"})


def quality(found: Quality | None) -> str:
    """As ".6542 ±.0151 =": value, half of its interval, mark."""
    if found is None:
        return wording.UNKNOWN
    half = (found.ci95[1] - found.ci95[0]) / 2
    return f"{share(found.value)} ±{share(half)}{f' {mark(found)}' if mark(found) else ''}"


def mark(found: Quality) -> str:
    if found.against is None:
        return BEST
    return "" if found.against.real else ALIKE


def share(value: float) -> str:
    return f"{value:.4f}".removeprefix("0") if 0 <= value < 1 else f"{value:.4f}"


def difference(found: Quality) -> str:
    """How it compares with the best, in words."""
    one = found.against
    if one is None:
        return "the best"
    span = f"{one.value:+.4f} ({one.ci95[0]:+.4f} to {one.ci95[1]:+.4f}), p {one.p_adjusted:.4f}"
    return f"{span} against {one.best}: {'real' if one.real else 'no difference that this set can show'}"


def figure(column: Column, found: Figure | None) -> str:
    """A cell of the table; "-" where it is unknown."""
    if found is None or found.value is None:
        return wording.UNKNOWN
    if isinstance(found.value, bool):
        return "yes" if found.value else "no"
    if isinstance(found.value, str):
        return wording.plain(found.value)
    shown = f"{found.value:,.0f}" if column.name in WHOLE else wording.figure(found.value)
    return f"{'≥ ' if found.at_least else ''}{shown}"


def head(column: Column) -> str:
    return f"{column.title}, {column.unit}" if column.unit else column.title


def verdict(decision: Decision) -> str:
    """The whole table in one line."""
    counts = {state: sum(row.state == state for row in decision.rows) for state in ("skipped", "failed")}
    words = wording.counted(len(decision.measured), "system")
    words += "".join(f", {number} {state}" for state, number in counts.items() if number)
    if decision.ranking is not None:
        return f"{words}; first by the weights: {decision.ranking.standings[0].name}"
    best = _best_of(decision)
    return f"{words}; best {TITLES[RANKED_BY]}: {best}" if best else words


def _best_of(decision: Decision) -> str:
    """By data set the best, and those that are not shown to be worse."""
    told = []
    for name in decision.datasets:
        found = [(row.name, row.quality[name][RANKED_BY]) for row in decision.rows if name in row.quality]
        best = [one for one, figure in found if figure.against is None]
        alike = [one for one, figure in found if figure.against is not None and not figure.against.real]
        if best:
            told.append(f"{wording.listed([*best, *alike])} on {name}")
    return "; ".join(told)


def datasets(decision: Decision) -> list[str]:
    return [
        f"{name}: {facts.n_queries:,} queries, {facts.n_docs:,} documents"
        for name, facts in decision.datasets.items()
    ]


def background(decision: Decision) -> str:
    slo = f"; SLO {decision.slo}" if decision.slo else ""
    return f"load: {decision.load}{slo}; {wording.moment(decision.made_at)}"


def not_measured(decision: Decision) -> list[str]:
    return [f"{row.name} {row.state}: {row.reason}" for row in decision.rows if row.state != "measured"]


def unknowns(decision: Decision) -> list[str]:
    """Why figures are missing, one line for each column and reason; those of skipped systems are told apart."""
    told: dict[tuple[str, str], list[str]] = {}
    for row, column, found in _cells(decision):
        if found.value is None and row.state == "measured":
            told.setdefault((column.title, found.reason or "not known"), []).append(row.name)
    return [f"{title} of {', '.join(names)}: {reason}" for (title, reason), names in told.items()]


def remarks(decision: Decision) -> list[str]:
    """What is to be said of figures that are there, then findings."""
    told: dict[tuple[str, str], list[str]] = {}
    for row, column, found in _cells(decision):
        if found.value is not None and found.reason:
            told.setdefault((column.title, found.reason), []).append(row.name)
    lines = [f"{title} of {', '.join(names)}: {reason}" for (title, reason), names in told.items()]
    return lines + [f"{row.name}: {line}" for row in decision.rows for line in row.findings]


def _cells(decision: Decision) -> Iterator[tuple[Row, Column, Figure]]:
    for column in COLUMNS:
        for row in decision.rows:
            if column.name in row.figures:
                yield row, column, row.figures[column.name]


def ranking(decision: Decision) -> list[str]:
    """How far the ranking hangs on its weights, in sentences."""
    found = decision.ranking
    if found is None:
        return [f"no ranking: {decision.unrankable}"] if decision.unrankable else []
    first = found.standings[0]
    lines = [f"Weights: {', '.join(f'{name} {share_of(value)}' for name, value in found.weights.items())}."]
    lines.append(
        f"{first.name} comes first with these, and in {percent(first.first_share)} of "
        f"{found.draws:,} weightings drawn evenly."
    )
    often = max(found.standings, key=lambda one: one.first_share)
    if often.first_share > first.first_share:
        lines.append(
            f"{often.name} is first in more of them ({percent(often.first_share)}): the weights decide."
        )
    lines += [line for name in found.weights if (line := _holds(found, name))]
    lines += [f"{name} does not count: {why}." for name, why in found.dropped.items()]
    lines += [f"{name} has no place: {why}." for name, why in found.unranked.items()]
    lines += _tied(decision, found)
    return lines


def _holds(found: Ranking, name: str) -> str:
    low, high = found.holds[name]
    first = found.standings[0].name
    if low <= 0 and high >= 1:
        return f"Whatever {name} weighs, {first} stays first." if len(found.weights) > 1 else ""
    span = f"from {share_of(max(low, 0.0))} to {share_of(min(high, 1.0))}"
    return f"{first} stays first while {name} weighs {span} (now {share_of(found.weights[name])})."


def _tied(decision: Decision, found: Ranking) -> list[str]:
    """Where quality counted although the set cannot tell the first from the second."""
    if "quality" not in found.weights or len(found.standings) < 2:
        return []
    names = {found.standings[0].name, found.standings[1].name}
    rows = [row for row in decision.rows if row.name in names]
    for name in decision.datasets:
        pair = [row.quality[name][RANKED_BY] for row in rows if name in row.quality]
        gap = [one.against for one in pair if one.against is not None and one.against.best in names]
        if gap and not gap[0].real:
            return [
                f"On {name} the queries cannot tell the quality of {wording.listed(sorted(names))} apart; the "
                "ranking counts the difference all the same."
            ]
    return []


def share_of(value: float) -> str:
    return f"{value:.2f}".removeprefix("0") if 0 < value < 1 else f"{value:.0f}"


def percent(value: float) -> str:
    return wording.share(value, 1.0)


def ranking_rows(found: Ranking) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: place, system, score, the scores by criterion, the share of first places."""
    names = list(found.weights)
    heads = ["", "system", "score", *names, "first in"]
    rows = [
        [
            str(place),
            one.name,
            share(one.score),
            *(share(one.scores[name]) for name in names),
            percent(one.first_share),
        ]
        for place, one in enumerate(found.standings, 1)
    ]
    return heads, rows


def quality_heads(decision: Decision) -> list[tuple[str, str, str]]:
    """(data set, metric, head) of the quality columns."""
    several = len(decision.datasets) > 1
    return [
        (name, metric, f"{title} {name}" if several else title)
        for name in decision.datasets
        for metric, title in TITLES.items()
    ]


def quality_of(row: Row, name: str, metric: str) -> Quality | None:
    return row.quality.get(name, {}).get(metric)


def in_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of texts as aligned lines; the first column flush left, the others flush right."""
    rows = [[wording.plain(text) for text in row] for row in rows]
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    return [
        "  ".join(
            text.ljust(size) if index == 0 else text.rjust(size)
            for index, (text, size) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
