"""`schema`: the JSON Schema of a file that people write, for their editors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from deploytool.catalog import Catalog
from deploytool.cli.files import check_output, write_output


def schema(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="deployment, hardware or model.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Write it here. [default: stdout]")
    ] = None,
    profiles_dir: Annotated[
        Path | None, typer.Option("--profiles-dir", metavar="DIR", help="Offer the names found here, too.")
    ] = None,
) -> None:
    """Print the JSON Schema of a deployment file, a hardware profile or a model card, for editors.

    In an editor with the YAML language server, the first line of a file names it:
    # yaml-language-server: $schema=deployment.schema.json
    """
    from deploytool.from_file.schema import schema as made

    check_output(output)
    catalog = Catalog(profiles_dir)
    document = made(kind, models=catalog.files("models"), profiles=catalog.files("hardware"))
    write_output(output, json.dumps(document, indent=2, ensure_ascii=False) + "\n")
