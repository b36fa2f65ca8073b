"""`report`: one run as an HTML page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from deploytool.cli.output import note, say
from deploytool.errors import DeploytoolError


def report(
    run: Annotated[str, typer.Argument(help="A run's id, a unique beginning of it, or latest.")] = "latest",
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="FILE", help="Where to; - is stdout. [default: report-RUN.html]"
        ),
    ] = None,
    slo: Annotated[
        str | None,
        typer.Option("--slo", metavar="CONDITIONS", help='Show it: "p99<=150ms,errors<=0.1%".'),
    ] = None,
) -> None:
    """Write a run as one HTML file that opens offline."""
    from deploytool import samples
    from deploytool.cli.files import STDOUT, check_output, write_output
    from deploytool.reports import html, wording
    from deploytool.store import Store
    from deploytool.thresholds import parse_slo

    check_output(output)
    limits = parse_slo(slo) if slo is not None else None
    with Store() as store:
        record = store.run(run)
        folder = store.run_folder(record.id)
    requests = _rows(folder / "samples.parquet", html.REQUEST_COLUMNS)
    memory = _rows(folder / "memory.parquet", tuple(samples.MEMORY))
    page = html.render(record, requests, memory, limits)
    target = output or Path(f"report-{record.id}.html")
    write_output(target, page)
    if target != STDOUT:
        say(
            f"{target}: {wording.verdict(record)} ({len(page.encode()) / 1000:,.0f} kB, opens in any browser)"
        )


def _rows(path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]] | None:
    """The rows of a file of samples; None where there is none."""
    if not path.is_file():
        note(f"note: {path.name} is not there; the page says so")
        return None
    return _told(path, columns)


def _told(path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows, and a line on stderr where they cannot be read; the page says so too."""
    from deploytool import samples

    try:
        yield from samples.stream(path, columns)
    except DeploytoolError as error:
        for line in (f"warning: {error.message}", *(f"  {detail}" for detail in error.details)):
            note(line)
        raise
