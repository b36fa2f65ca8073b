"""`diff -f`: what `up -f` would change, field by field; nothing is started or ended."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deploytool.cli.output import emit, say


def diff(
    file: Annotated[
        Path, typer.Option("-f", "--file", metavar="FILE", help="The deployment file to compare with.")
    ],
    profiles_dir: Annotated[
        Path | None, typer.Option("--profiles-dir", help="Folder with hardware/ and models/ searched first.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
) -> int:
    """Show what differs between a deployment file and what is deployed. Changes nothing.

    Exit code 0: all is as asked and runs; 1: something differs.
    """
    from deploytool.catalog import Catalog
    from deploytool.deployment import refresh
    from deploytool.from_file.differences import compare
    from deploytool.from_file.known import read
    from deploytool.store import Store

    catalog = Catalog(profiles_dir)
    wanted = read(file, catalog)
    with Store() as store:
        found = compare(wanted, file, refresh(store), catalog)
    if as_json:
        emit([one.model_dump(mode="json") for one in found])
    else:
        for one in found:
            state = f" ({one.state}{f': {one.reason}' if one.reason else ''})" if one.state else ""
            say(f"{one.name}: {one.status}{state}")
            for difference in one.differences:
                say(f"  {difference}")
    return 0 if all(one.status == "as asked" for one in found) else 1
