"""`golden make` and `golden list`: the reference vectors that servers are compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from deploytool.cli.files import STDOUT, check_output, write_output
from deploytool.cli.output import emit, note, say, table
from deploytool.errors import BadInput

app = typer.Typer(
    help="Golden vectors: make, list.", no_args_is_help=True, add_completion=False, rich_markup_mode=None
)

ProfilesDir = Annotated[
    Path | None,
    typer.Option("--profiles-dir", metavar="DIR", help="Look for model cards and golden vectors here first."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@app.command("make")
def make(
    model: Annotated[str, typer.Argument(help="A model card's name, a local folder, or a hub id.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Write it there (- is stdout), not beside your profiles."
        ),
    ] = None,
    profiles_dir: ProfilesDir = None,
    device: Annotated[
        str, typer.Option("--device", metavar="DEVICE", help="cpu, cuda or cuda:N: where to compute.")
    ] = "cpu",
    trust_remote_code: Annotated[
        bool,
        typer.Option("--trust-remote-code", help="Execute code of the model's repository: read it first."),
    ] = False,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", min=1, help="For the whole computation.")
    ] = 3600.0,
    as_json: Json = False,
) -> None:
    """Compute a model's reference vectors in float32, for `smoke`, `up` and `verify` to compare with.

    They are written beside your own profiles (or below --profiles-dir), where every command looks for them.
    """
    from deploytool import reference
    from deploytool.catalog import Catalog

    if as_json and output == STDOUT:
        raise BadInput("stdout carries the JSON document", hint="give -o a file")
    check_output(output)
    card = Catalog(profiles_dir).model(model)
    golden = reference.make(card, note, device=device, trust_remote_code=trust_remote_code, timeout_s=timeout)
    path = output or _beside_profiles(profiles_dir) / reference.file_name(card, golden)
    write_output(path, reference.render(golden))
    document = {
        "model": golden.model,
        "path": str(path),
        "texts": len(golden.texts),
        "wrong_vectors": len(golden.wrong),
        "dimensions": golden.dimensions,
        "pooling": golden.pooling,
        "libraries": golden.libraries,
    }
    if as_json:
        emit(document)
    elif path != STDOUT:
        say(f"{path}: {len(golden.texts)} texts, {golden.dimensions} dimensions, {golden.pooling} pooling")


@app.command("list")
def listing(profiles_dir: ProfilesDir = None, as_json: Json = False) -> None:
    """List the golden vectors that are found, and for which model and weights they are."""
    from deploytool.errors import InvalidFile
    from deploytool.golden import read
    from deploytool.golden.files import KIND
    from deploytool.paths import profile_dirs

    rows: list[dict[str, Any]] = []
    for folder in profile_dirs(KIND, profiles_dir):
        for path in sorted(folder.glob("*.json")):
            try:
                golden = read(path)
            except InvalidFile as error:
                note(f"warning: {path} is left out: {error.problems[0].message}")
                continue
            rows.append(
                {
                    "model": golden.model,
                    "texts": len(golden.texts),
                    "dimensions": golden.dimensions,
                    "pooling": golden.pooling,
                    "weights": golden.weights[0].sha256[:12],
                    "made_at": golden.made_at,
                    "path": str(path),
                }
            )
    if as_json:
        emit(rows)
    elif rows:
        table(list(rows[0]), [list(row.values()) for row in rows], right=("texts", "dimensions"))
    else:
        note("no golden vectors are here; make some: deploytool golden make MODEL")


def _beside_profiles(profiles_dir: Path | None) -> Path:
    """The folder for golden files, made where it is not there yet."""
    from deploytool.golden.files import KIND
    from deploytool.paths import config_dir

    folder = (profiles_dir.expanduser() if profiles_dir else config_dir() / "profiles") / KIND
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(
            f"cannot make the folder {folder}: {error.strerror or error}", hint="name a file with -o"
        ) from error
    return folder
