"""`runs`: list, show and export load runs."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploytool.cli.output import emit, note, say, table
from deploytool.errors import BadInput, NotAvailable

if TYPE_CHECKING:
    from deploytool.records import RunRecord
    from deploytool.store import Store

app = typer.Typer(help="Load runs: list, show, export.", no_args_is_help=True, rich_markup_mode=None)

Run = Annotated[str, typer.Argument(help="A run's id, a unique beginning of it, or latest.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


class Format(StrEnum):
    """What a run can be exported as."""

    json = "json"
    csv = "csv"
    parquet = "parquet"
    markdown = "markdown"
    openmetrics = "openmetrics"


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List runs, newest first: what was measured, how far it came, the best QPS, the errors."""
    from deploytool.store import Store

    with Store() as store:
        records, unreadable = store.listed_runs()
    for run_id, error in unreadable.items():
        note(f"warning: run {run_id} is left out: {error.message} ({error.hint})")
    if as_json:
        emit([_summary(record) for record in records])
        return
    if not records and not unreadable:
        note("no runs yet; `deploytool load TARGET` makes one")
        return
    columns = ("run", "started", "model", "target", "cells", "state", "best QPS", "errors")
    table(columns, [_row(record) for record in records], right=("cells", "best QPS", "errors"))


@app.command("show")
def show(run: Run = "latest", as_json: AsJson = False) -> None:
    """Show one run: its table, memory by phase, and the environment it was measured in."""
    from deploytool.reports import table as run_table
    from deploytool.store import Store

    with Store() as store:
        record = store.run(run)
        folder = store.run_folder(record.id)
    if as_json:
        emit(record.model_dump(mode="json"))
        return
    say(run_table.render(record))
    if any(phase.samples for phase in record.memory):
        _print_memory(record)
    _print_environment(record)
    say(f"raw samples: {_raw_files(folder) or 'none are kept'}")
    if unfinished := sorted(folder.glob("cells/*/samples-*.csv")):
        say(f"of a cell that did not end: {', '.join(map(str, unfinished))}")


@app.command("export")
def export(
    run: Run = "latest",
    form: Annotated[
        Format,
        typer.Option(
            "--format", help="csv: a row a cell. parquet: every request. openmetrics: a Pushgateway."
        ),
    ] = Format.json,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Where to; - is stdout.")
    ] = None,
) -> None:
    """Write a run as JSON, CSV, Markdown, OpenMetrics, or its raw samples as Parquet."""
    from deploytool.cli.files import check_output, write_output
    from deploytool.store import Store

    check_output(output)
    with Store() as store:
        content = _content(store, store.run(run), form, output)
    write_output(output, content)
    if output is not None and str(output) != "-":
        note(f"wrote {output} ({len(content):,} {'bytes' if isinstance(content, bytes) else 'characters'})")


def _content(store: Store, record: RunRecord, form: Format, output: Path | None) -> str | bytes:
    if form is Format.json:
        return record.model_dump_json(indent=2) + "\n"
    if form is Format.csv:
        from deploytool.reports import csv

        return csv.render(record)
    if form is Format.markdown:
        from deploytool.reports import markdown

        return markdown.render(record)
    if form is Format.openmetrics:
        from deploytool.reports import openmetrics

        return openmetrics.render(record)
    if output is None or (str(output) == "-" and sys.stdout.isatty()):
        raise BadInput("Parquet is binary and needs a file", hint="-o samples.parquet")
    return _samples(store.run_folder(record.id) / "samples.parquet", record)


def _samples(path: Path, record: RunRecord) -> bytes:
    """The raw samples as they lie there; a damaged file is refused where that can be told."""
    from deploytool import samples

    if not path.is_file():
        raise NotAvailable(
            f"run {record.id} has no raw samples: {path} is not there",
            hint="--format csv and json hold what the record holds",
        )
    try:
        samples.count(path)
    except NotAvailable:
        note("note: the samples are copied unchecked: pyarrow is not installed")
    return path.read_bytes()


def _summary(record: RunRecord) -> dict[str, Any]:
    from deploytool.reports import wording

    best = wording.best(record.cells, "qps")
    return {
        "id": record.id,
        "started_at": record.started_at,
        "model": record.target.model,
        "target": record.target.deployment or record.target.url,
        "engine": record.target.engine,
        "profile": record.target.profile,
        "cells_done": sum(cell.state == "done" for cell in record.cells),
        "cells_asked": wording.asked_cells(record),
        "state": record.state,
        "reason": record.reason,
        "best_qps": best.qps if best else None,
        "errors": sum(wording.failures_by_class(record).values()),
    }


def _row(record: RunRecord) -> tuple[object, ...]:
    from deploytool.reports import wording

    line = _summary(record)
    return (
        wording.plain(line["id"]),
        wording.moment(record.started_at),
        wording.plain(line["model"]),
        wording.plain(line["target"]),
        f"{line['cells_done']}/{line['cells_asked']}",
        line["state"],
        wording.figure(line["best_qps"]),
        f"{line['errors']:,}",
    )


def _print_memory(record: RunRecord) -> None:
    from deploytool.reports.wording import figure, plain

    columns = ("phase", "VRAM peak MiB", "of the server MiB", "RSS peak MiB", "readings")
    rows = [
        (
            plain(phase.phase),
            figure(phase.vram_peak_mib),
            figure(phase.vram_process_peak_mib),
            figure(phase.rss_peak_mib),
            f"{phase.samples:,}",
        )
        for phase in record.memory
    ]
    table(columns, rows, right=columns[1:])
    say()


def _print_environment(record: RunRecord) -> None:
    from deploytool.reports.flat import flattened
    from deploytool.reports.wording import plain

    pairs = flattened(record.environment)
    width = max((len(plain(name)) for name, _ in pairs), default=0)
    for name, value in pairs:
        say(f"{plain(name):<{width}}  {plain(value)}")
    if pairs:
        say()


def _raw_files(folder: Path) -> str:
    return ", ".join(
        str(folder / name) for name in ("samples.parquet", "memory.parquet") if (folder / name).is_file()
    )
