"""A capacity search and its plan: for a terminal, as Markdown, and as one HTML page that opens offline."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Sequence

from deploytool.reports import capacity_curve, page, wording
from deploytool.reports.markdown import escaped
from deploytool.reports.markup import Markup, element
from deploytool.reports.parts import pairs, paragraph, scrolled, section
from deploytool.reports.wording import figure, milliseconds, plain
from deploytool.sizing import Capacity, Plan, Probe

NARROWEST = 60
HEADS = ("rate/s", "step", "requests", "answered/s", "P50 ms", "P99 ms", "SLO", "why")
HOW = (
    "Open loop, Poisson arrivals; a latency begins when its request was due, and a failed or dropped request "
    "is slower than any limit. The rate was doubled until the SLO broke, bisected, and confirmed in a longer "
    "window of its own. Holds and breaks are one-sided tests at 2.5 % each."
)


def render(found: Capacity, *, width: int | None = None) -> str:
    """For a terminal."""
    columns = max(NARROWEST, width or shutil.get_terminal_size((120, 24)).columns)
    lines = []
    for line in (found.subject, headline(found)):
        lines += textwrap.wrap(plain(line), columns, subsequent_indent="  ")
    lines.append("")
    rows = facts(found)
    wide = max(len(name) for name, _ in rows)
    for name, value in rows:
        lines += textwrap.wrap(
            plain(value), columns, initial_indent=name.ljust(wide) + "  ", subsequent_indent=" " * (wide + 2)
        )
    lines.append("")
    cells = [HEADS[:-1], *(_row(probe)[:-1] for probe in found.found.probes)]
    widths = [max(len(row[index]) for row in cells) for index in range(len(HEADS) - 1)]
    lines += ["  ".join(text.rjust(size) for text, size in zip(row, widths, strict=True)) for row in cells]
    lines += [""] if found.notes else []
    for note in found.notes:
        lines += textwrap.wrap(plain(f"note: {note}"), columns, subsequent_indent="  ")
    return "\n".join(lines) + "\n"


def markdown(found: Capacity) -> str:
    """The written plan."""
    lines = [f"# Capacity of {escaped(found.model)}", "", f"**{escaped(headline(found))}**", ""]
    lines += ["| | |", "|---|---|"]
    lines += [f"| {escaped(name)} | {escaped(value)} |" for name, value in facts(found)]
    lines += ["", *(f"- {escaped(note)}" for note in found.notes)]
    lines += ["", "## How the plan was reckoned", "", *(f"- {escaped(line)}" for line in reckoning(found))]
    lines += ["", "## What was measured", "", HOW, "", f"| {' | '.join(HEADS)} |"]
    lines.append("|---:|---|" + "---:|" * 4 + "---|---|")
    lines += [f"| {' | '.join(map(escaped, _row(probe)))} |" for probe in found.found.probes]
    return "\n".join(lines) + "\n"


def html(found: Capacity) -> str:
    """The written plan as a page."""
    state = "holds" if found.found.converged else "at least" if found.found.max_qps else "does not hold"
    header = element(
        "header",
        paragraph("Capacity plan, open loop", "eyebrow"),
        element("h1", found.model),
        element(
            "p",
            element("strong", state, class_=f"state {'' if found.found.max_qps else 'failed'}".strip()),
            " ",
            headline(found),
            class_="verdict",
        ),
        paragraph(found.subject),
    )
    notes = element("ul", [element("li", note) for note in found.notes]) if found.notes else None
    body = element(
        "main",
        header,
        section("summary", "In short", element("div", list(_tiles(found)), class_="tiles"), notes),
        section("plan", "The plan", pairs("The plan", facts(found))),
        section(
            "reckoning",
            "How it was reckoned",
            element("ul", [element("li", line) for line in reckoning(found)]),
        ),
        section("curve", "Latency against rate", capacity_curve.draw(found, headline(found))),
        section("results", "What was measured", paragraph(HOW), _probe_table(found.found.probes)),
    )
    return page.whole(f"{found.model}: capacity plan", body, f"from run {found.run}")


def headline(found: Capacity) -> str:
    """The result in one line."""
    slo = ", ".join(found.slo)
    if not found.found.max_qps:
        return f"{slo} was shown to hold at no rate: {found.found.reason}"
    least = "" if found.found.converged else "at least "
    texts = f" ({figure(found.found.max_qps * found.batch)} texts/s)" if found.batch > 1 else ""
    return f"{least}{figure(found.found.max_qps)} requests/s{texts} hold {slo}"


def facts(found: Capacity) -> list[tuple[str, str]]:
    """Names and values: what was found, then the plan. What is not known says why."""
    return [
        ("highest rate", _range(found)),
        ("P99 there", milliseconds(found.found.p99_ms) if found.found.p99_ms else "too few samples"),
        ("knee", f"{figure(found.knee_qps)} requests/s: most throughput per latency"
                 if found.knee_qps else "not known: no probe was valid"),
        ("limited by", f"{found.limit}: {found.limit_why}" if found.limit else found.limit_why),
        *_plan_facts(found.plan, found.batch),
        ("measured", f"{wording.moment(found.measured_at)}, {wording.duration(found.took_s)}, "
                     f"{found.requests:,} requests of {wording.counted(found.batch, 'text')}, "
                     f"run {found.run or '-'}"),
    ]  # fmt: skip


def _range(found: Capacity) -> str:
    top = f"broke or was not shown to hold at {figure(found.found.high)}" if found.found.high else (
        f"not bounded from above: {found.found.reason}"
    )  # fmt: skip
    return f"{figure(found.found.max_qps)} requests/s; {top}"


def _plan_facts(plan: Plan, batch: int) -> list[tuple[str, str]]:
    rows = []
    if plan.replicas is None:
        rows.append(("replicas", f"not planned: {plan.reason}"))
    else:
        rows.append(("replicas", f"{plan.replicas}: {plan.working} carry the load, one more bears a loss"))
    if plan.cards_per_replica:
        every = f" each, {plan.cards} in all" if plan.cards is not None else " a replica"
        rows.append(("cards", f"{plan.cards_per_replica} x {plan.card}{every}"))
    if plan.vram_mib_per_card is not None:
        of = f" of {plan.card_memory_mib:,}" if plan.card_memory_mib else ""
        rows.append(("memory a card", f"{plan.vram_mib_per_card:,.0f}{of} MiB (peak and a tenth)"))
    if plan.usd_per_hour is None:
        return [*rows, ("price", f"not known: {plan.usd_reason}")]
    rows.append(("price an hour", f"{plan.usd_per_hour:,.2f} USD ({plan.instances} x {plan.price})"))
    basis = "of the plan at its target" if plan.replicas is not None else "of one replica at its full rate"
    per = [f"{plan.usd_per_1m_texts:,.3g} USD for 1M texts"] if plan.usd_per_1m_texts is not None else []
    if plan.usd_per_1m_tokens is not None:
        per.append(f"{plan.usd_per_1m_tokens:,.3g} USD for 1M tokens")
    rows.append(("price of work", f"{', '.join(per)} ({basis}, {wording.counted(batch, 'text')} a request)"))
    return rows


def reckoning(found: Capacity) -> Iterator[str]:
    """Every step from the measured rate to the replicas, with its figures."""
    plan = found.plan
    each = f"{wording.counted(found.batch, 'text')} each"
    yield f"A replica holds the SLO up to {figure(found.found.max_qps)} requests/s, {each}."
    yield (
        f"{100 * plan.headroom:g} % of it stay free for peaks and restarts: "
        f"{figure(plan.per_replica_qps)} requests/s are planned on a replica."
    )
    if plan.needed_qps is None or plan.working is None:
        yield f"No number of replicas: {plan.reason}."
        return
    yield (
        f"{figure(plan.target_qps)} requests/s with {100 * plan.growth:g} % of growth are "
        f"{figure(plan.needed_qps)}; divided by {figure(plan.per_replica_qps)} and rounded up: "
        f"{plan.working}."
    )
    yield f"One more (N+1), so that the loss of one is borne: {plan.replicas}."
    yield "Replicas are taken to be independent, behind a balancer that spreads requests evenly."


def _row(probe: Probe) -> tuple[str, ...]:
    return (
        f"{probe.rate:g}", probe.step, f"{probe.due:,}", figure(probe.served_per_s), figure(probe.p50_ms),
        figure(probe.p99_ms), probe.ruling, probe.why,
    )  # fmt: skip


def _tiles(found: Capacity) -> Iterator[Markup]:
    plan = found.plan
    tiles = [
        (figure(found.found.max_qps), "requests/s hold the SLO", ", ".join(found.slo)),
        (milliseconds(found.found.p99_ms), "P99 there", f"batch {found.batch}"),
    ]
    if plan.replicas is not None:
        tiles.append((str(plan.replicas), "replicas", f"{plan.working} + 1"))
    if plan.usd_per_hour is not None:
        tiles.append((f"{plan.usd_per_hour:,.2f}", "USD an hour", plan.card or ""))
    if plan.usd_per_1m_texts is not None:
        tiles.append((f"{plan.usd_per_1m_texts:,.3g}", "USD for 1M texts", f"batch {found.batch}"))
    for value, words, small in tiles:
        yield element(
            "div", element("b", value), element("span", words), element("small", small), class_="tile"
        )


def _probe_table(probes: Sequence[Probe]) -> Markup:
    heads = [element("th", head, scope="col", class_="note" if head == "why" else None) for head in HEADS]
    rows = [
        element(
            "tr",
            [
                element("td", text, class_="note" if head == "why" else None)
                for head, text in zip(HEADS, _row(probe), strict=True)
            ],
            class_=None if probe.ruling == "holds" else "void",
        )
        for probe in probes
    ]
    table = element("table", element("thead", element("tr", heads)), element("tbody", rows))
    return scrolled(table, "Probes")
