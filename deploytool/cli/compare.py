"""`compare`: load runs of the same work, with intervals; an exit code for a pull request."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploytool.cli.files import STDOUT, check_output, write_output
from deploytool.cli.output import emit, note, say
from deploytool.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deploytool.compared import Comparison

FAIL_ON_HELP = 'Exit with 1 where a change passes one of these beyond the noise: "p99>+10%,qps<-5%,vram>+5%".'


class Format(StrEnum):
    """How a comparison is printed."""

    table = "table"
    json = "json"
    markdown = "markdown"


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...", help="The baseline, then the runs to compare with it; A,B joins repeats."
        ),
    ],
    fail_on: Annotated[str | None, typer.Option("--fail-on", metavar="CONDITIONS", help=FAIL_ON_HELP)] = None,
    noise: Annotated[
        float | None,
        typer.Option(
            "--noise",
            metavar="PERCENT",
            min=0,
            max=100,
            help="How far two runs of the same may be apart, where no repeats tell it. [default: 3]",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Compare unlike work too, with a warning.")] = False,
    junit: Annotated[
        Path | None, typer.Option("--junit", metavar="FILE", help="Write the conditions as JUnit XML, too.")
    ] = None,
    form: Annotated[
        Format, typer.Option("--format", help="markdown: fits a pull-request comment.")
    ] = Format.table,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Where to; - is stdout.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> int:
    """Compare load runs of the same work: differences with intervals, beyond noise or not.

    Exit code 1 only where a condition is met and the change is beyond the noise, or where a condition cannot
    be ruled on because the newer run lacks what the baseline has.
    """
    from deploytool.comparison import compare as run
    from deploytool.comparison import read_side
    from deploytool.store import Store
    from deploytool.thresholds import parse_changes

    if len(runs) < 2:
        raise BadInput(
            "a comparison needs two runs or more",
            hint="deploytool compare BASELINE RUN; `deploytool runs list` lists them",
        )
    if junit == STDOUT:
        raise BadInput("stdout carries the comparison", hint="give --junit a file")
    check_output(junit, option="--junit")
    check_output(output)
    thresholds = parse_changes(fail_on) if fail_on is not None else ()
    with Store() as store:
        baseline, *others = [read_side(store, text.split(",")) for text in runs]
    given: dict[str, Any] = {} if noise is None else {"between_percent": noise}
    comparisons = [run(baseline, other, thresholds, force=force, **given) for other in others]
    if junit is not None:
        write_junit(junit, "compare", comparisons)
    chosen = Format.json if as_json else form
    if output is None and chosen is Format.json:
        emit(document(comparisons))
    else:
        write_output(output, _text(comparisons, chosen))
    return verdict(comparisons)


def document(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    return {
        "passed": all(comparison.passed for comparison in comparisons),
        "comparisons": [
            comparison.model_dump(mode="json") | {"passed": comparison.passed} for comparison in comparisons
        ],
    }


def _text(comparisons: Sequence[Comparison], form: Format) -> str:
    import json

    from deploytool.reports import comparison as report

    if form is Format.json:
        return json.dumps(document(comparisons), indent=2, ensure_ascii=False) + "\n"
    render = report.markdown if form is Format.markdown else report.render
    return "\n".join(render(comparison) for comparison in comparisons)


def show(comparison: Comparison) -> None:
    from deploytool.reports import comparison as report

    say(report.render(comparison).rstrip("\n"))


def write_junit(path: Path, name: str, comparisons: Sequence[Comparison]) -> None:
    from deploytool.reports import comparison as report
    from deploytool.reports.junit import render

    several = len(comparisons) > 1
    cases = []
    for comparison in comparisons:
        prefix = f"{','.join(comparison.current.runs)}: " if several else ""
        for case in report.cases(comparison):
            cases.append(type(case)(f"{prefix}{case.name}", case.passed, case.message, case.lines))
    write_output(path, render(name, cases), option="--junit")


def verdict(comparisons: Sequence[Comparison]) -> int:
    """The exit code; the failed conditions go to stderr once more, where CI logs end."""
    failed = [(comparison, one) for comparison in comparisons for one in comparison.failed]
    for comparison in comparisons:
        for line in comparison.unlike:
            note(f"warning: unlike work: {line}")
    if not failed:
        return 0
    note(f"error: {len(failed)} condition{'' if len(failed) == 1 else 's'} not held")
    for _, one in failed:
        note(f"  {one.threshold} [{one.cell}]: {one.why}")
    return 1
