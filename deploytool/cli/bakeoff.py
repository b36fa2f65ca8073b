"""`bakeoff`: several systems, measured one after the other, in one decision table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploytool.cli.files import STDOUT, check_output, write_output
from deploytool.cli.output import emit, note, say
from deploytool.errors import BadInput

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from deploytool.benchmark import LoadOptions
    from deploytool.benchmark import Progress as LoadProgress
    from deploytool.decision import Decision
    from deploytool.evaluation import Progress as EvalProgress
    from deploytool.sizing import Probe

FIRST_FILE = Path("bakeoff.yaml")
WRITTEN = (".md", ".html", ".json", ".csv")


def bakeoff(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="Systems, data sets and load, as YAML.")
    ] = None,
    init: Annotated[
        bool, typer.Option("--init", help="Write a commented file that runs here. [default: bakeoff.yaml]")
    ] = False,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            metavar="NAME=N,...",
            help="Rank by quality, latency, memory, cost: quality=.5,latency=.2,memory=.2,cost=.1.",
        ),
    ] = None,
    output: Annotated[
        list[Path] | None,
        typer.Option("-o", "--output", metavar="FILE", help="Write .html, .md, .csv or .json. Repeatable."),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Use nothing that was measured before.")] = False,
    profiles_dir: Annotated[
        Path | None,
        typer.Option("--profiles-dir", metavar="DIR", help="Look for profiles and cards here first."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> int:
    """Compare systems side by side: quality, latency, capacity, memory, cost.

    Each is brought up, proven, loaded, evaluated and taken down. Killed, the same command goes on; what this
    machine cannot run is skipped, with the reason. Exit code 1 where a system failed.
    """
    if init:
        return _init(file or FIRST_FILE)
    if file is None:
        raise BadInput("no file was given", hint="write one: deploytool bakeoff --init")
    for path in output or ():
        _check_written(path)
    from deploytool.weighing import parse_weights

    asked = parse_weights(weights) if weights is not None else {}
    decision = _decided(file, asked, fresh, profiles_dir)
    for path in output or ():
        write_output(path, _text(decision, path))
        if path != STDOUT:
            note(f"wrote {path}")
    if as_json:
        emit(decision.model_dump(mode="json"))
    elif STDOUT not in (output or ()):
        from deploytool.reports import bakeoff as report

        say(report.render(decision).rstrip("\n"))
    failed = [row.name for row in decision.rows if row.state == "failed"]
    if failed:
        note(f"error: {', '.join(failed)} failed; the table says why")
    return 1 if failed else 0


def _init(path: Path) -> int:
    from deploytool.bakeoff import example

    if path.exists():
        raise BadInput(f"{path} is there already", hint="name another file: deploytool bakeoff --init FILE")
    write_output(path, example(), option="--init")
    note(f"wrote {path}; next: deploytool bakeoff {path}")
    return 0


def _check_written(path: Path) -> None:
    check_output(path)
    if path != STDOUT and path.suffix not in WRITTEN:
        raise BadInput(f"no table is written as {path.name!r}", hint=f"-o FILE with {', '.join(WRITTEN)}")


def _decided(file: Path, asked: dict[str, float], fresh: bool, profiles_dir: Path | None) -> Decision:
    from deploytool.bakeoff import bake_off, read
    from deploytool.catalog import Catalog
    from deploytool.store import Store

    catalog = Catalog(profiles_dir, ask_hub=True)
    config = read(file, catalog)
    with Store() as store:
        return bake_off(
            config, store, Watcher(), catalog=catalog, weights=asked or config.weights, fresh=fresh
        )


class Watcher:
    """The views of the verbs that a bake-off is made of."""

    def __init__(self) -> None:
        from deploytool.cli.deploy_view import Narrator

        self._narrator = Narrator()

    def note(self, line: str) -> None:
        self._narrator.line(line)

    @property
    def tick(self) -> Callable[[str], None] | None:
        return self._narrator.tick

    def loading(self, options: LoadOptions) -> AbstractContextManager[LoadProgress]:
        from deploytool.cli.load_view import view

        return view(options)

    def searching(self) -> tuple[LoadProgress, Callable[[Probe], None]]:
        from deploytool.cli.capacity import Progress

        shown = Progress()
        return shown, shown.told

    def evaluating(self) -> AbstractContextManager[EvalProgress]:
        from deploytool.cli.eval_view import watching

        return watching()


def _text(decision: Decision, path: Path) -> str:
    from deploytool.reports import bakeoff as report
    from deploytool.reports import bakeoff_page

    if path.suffix == ".html":
        return bakeoff_page.html(decision)
    if path.suffix == ".csv":
        return report.csv(decision)
    if path.suffix == ".json":
        return decision.model_dump_json(indent=2) + "\n"
    return report.markdown(decision)
