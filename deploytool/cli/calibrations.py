"""`calibrations`: what was measured of memory, and sharing it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deploytool.cli.files import STDOUT, check_output, write_output
from deploytool.cli.output import emit, note, say, table

app = typer.Typer(
    help="What was measured of memory: list, export, import.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
COLUMNS = ("model", "engine", "version", "card", "dtype", "cards", "source", "at rest", "by formula", "peak",
           "full", "at")  # fmt: skip


@app.command("list")
def listing(as_json: Json = False) -> None:
    """List what was measured, oldest first; the latest of each model, engine, version and card count."""
    from deploytool import calibrations

    found = calibrations.kept()
    if found.unreadable:
        note(f"warning: {found.unreadable} lines cannot be read and are left out")
    if as_json:
        emit([entry.model_dump(mode="json") for entry in found.entries])
    elif found.entries:
        rows = [
            (entry.model, entry.engine, entry.engine_version, entry.card, entry.dtype, entry.tensor_parallel,
             entry.source, entry.loaded_mib, entry.rest_mib, entry.peak_mib, entry.full, entry.at[:16])
            for entry in found.entries
        ]  # fmt: skip
        table(COLUMNS, rows, right=("cards", "at rest", "by formula", "peak"))
    else:
        note("nothing was measured on a card yet; deploytool calibrate MODEL --profile P does it")


@app.command("export")
def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it (- is stdout).")],
) -> None:
    """Write what was measured as one file to share. It names models and cards, no path and no machine."""
    from deploytool import calibrations

    check_output(file, option="FILE")
    entries = calibrations.kept().entries
    write_output(file, calibrations.export(entries), option="FILE")
    if file != STDOUT:
        note(f"{len(entries)} measurements written to {file}")


@app.command("import")
def take(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that `export` wrote.")],
    as_json: Json = False,
) -> None:
    """Add another machine's measurements, all or none; those that are known already are left out."""
    from deploytool import calibrations

    entries = calibrations.read_export(file.expanduser())
    added = calibrations.add(entries)
    if as_json:
        emit({"measurements": len(entries), "added": added})
    else:
        say(f"{added} of {len(entries)} measurements added")
