"""The root command: knows every verb by name and loads its module when it is used, so that `--help` is fast.

This is the one place that turns exceptions into messages and exit codes.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from typing import TYPE_CHECKING, Any, NamedTuple

import typer
from typer.core import TyperGroup

from deploytool import __version__
from deploytool.errors import DeploytoolError, nearest

if TYPE_CHECKING:
    from typer._click.core import Command, Context


class Verb(NamedTuple):
    """Where a verb lives: a function, or a Typer app of further verbs; and its line in `--help`."""

    module: str
    attribute: str
    help: str
    panel: str


COMMANDS: dict[str, Verb] = {
    "up": Verb("up", "up", "Bring a model up, prove that it works, leave it running.", "Serve"),
    "ps": Verb("deploy", "ps", "List deployments with their true state.", "Serve"),
    "status": Verb("deploy", "status", "Show one deployment in full.", "Serve"),
    "logs": Verb("deploy", "logs", "Print a deployment's log; -f follows it.", "Serve"),
    "stop": Verb("deploy", "stop", "Stop a deployment and keep its record.", "Serve"),
    "restart": Verb("deploy", "restart", "Stop a deployment and bring it up again as it was.", "Serve"),
    "down": Verb("deploy", "down", "Take deployments down and forget them.", "Serve"),
    "diff": Verb(
        "diff", "diff", "Show what differs between a deployment file and what is deployed.", "Serve"
    ),
    "export": Verb("export", "app", "Files for other machines: compose, kubernetes.", "Serve"),
    "scale": Verb("scale", "scale", "Change how many replicas an endpoint has while it serves.", "Serve"),
    "watch": Verb(
        "watch", "watch", "Keep deployments up: restart what died or hangs, with growing pauses.", "Serve"
    ),
    "service": Verb("watch", "app", "A service of this machine that keeps deployments up: install.", "Serve"),
    "image": Verb("image", "app", "Container images of this tool: build.", "Serve"),
    "plan": Verb(
        "plan", "plan", "Show the exact command, the memory and every value's origin. Needs no GPU.", "Plan"
    ),
    "schema": Verb(
        "schema",
        "schema",
        "Print the JSON Schema of a deployment file, a hardware profile or a model card, for editors.",
        "Plan",
    ),
    "fit": Verb("fit", "fit", "Show which models fit which cards, and how.", "Plan"),
    "calibrate": Verb(
        "calibrate", "calibrate", "Measure a model's memory on a card, for the next plans.", "Plan"
    ),
    "calibrations": Verb("calibrations", "app", "What was measured of memory: list, export, import.", "Plan"),
    "doctor": Verb(
        "doctor",
        "doctor",
        "Look this machine over: what is here, what is missing, and how to mend it.",
        "Plan",
    ),
    "profiles": Verb("profiles", "app", "Hardware profiles: list, show, validate, detect.", "Plan"),
    "models": Verb("models", "app", "Model cards: list, show, validate.", "Plan"),
    "smoke": Verb("smoke", "smoke", "Check that an endpoint's vectors and errors are right.", "Measure"),
    "verify": Verb(
        "verify", "verify", "Compare an endpoint's vectors with another's, or with golden ones.", "Measure"
    ),
    "golden": Verb("golden", "app", "Golden vectors: make, list.", "Measure"),
    "load": Verb("load", "load", "Load an endpoint over a batch x concurrency grid.", "Measure"),
    "eval": Verb("eval", "evaluate", "Measure retrieval quality on a data set, with intervals.", "Measure"),
    "bakeoff": Verb(
        "bakeoff",
        "bakeoff",
        "Compare systems side by side: quality, latency, capacity, memory, cost.",
        "Measure",
    ),
    "runs": Verb("runs", "app", "Load runs: list, show, export.", "Measure"),
    "report": Verb("report", "report", "Write a run as one HTML file that opens offline.", "Measure"),
    "compare": Verb(
        "compare",
        "compare",
        "Compare load runs of the same work: differences with intervals, beyond noise or not.",
        "Measure",
    ),
    "gate": Verb(
        "gate", "gate", "Check an endpoint before production: smoke, short load, comparison.", "Measure"
    ),
    "capacity": Verb(
        "capacity",
        "capacity",
        "Find the highest rate that holds an SLO, and plan replicas, cards and price for a target.",
        "Measure",
    ),
}


def load(name: str) -> Command:
    """The real command behind a verb; imports its module."""
    verb = COMMANDS[name]
    target = getattr(importlib.import_module(f"deploytool.cli.{verb.module}"), verb.attribute)
    if isinstance(target, typer.Typer):
        return named(typer.main.get_command(target), name)
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(name, no_args_is_help=False)(target)
    return named(typer.main.get_command(app), name)


def named(command: Command, name: str) -> Command:
    command.name = name
    return command


class LazyGroup(TyperGroup):
    """Lists verbs from the table; resolves one by importing its module."""

    def list_commands(self, ctx: Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: Context, cmd_name: str) -> Command | None:
        verb = COMMANDS.get(cmd_name)
        if verb is None:
            return None
        if ctx.resilient_parsing or _completing():
            return load(cmd_name)
        app = typer.Typer(add_completion=False)
        app.command(cmd_name, help=verb.help, rich_help_panel=verb.panel)(_placeholder)
        return named(typer.main.get_command(app), cmd_name)

    def resolve_command(self, ctx: Context, args: list[str]) -> tuple[str | None, Command | None, list[str]]:
        name = args[0]
        if name in COMMANDS:
            return name, load(name), args[1:]
        near = nearest(name, COMMANDS)
        if near and not name.startswith("-"):
            ctx.fail(f"No such command {name!r}. Did you mean {' or '.join(near)}?")
        return super().resolve_command(ctx, args)


def _placeholder() -> None:
    """Stands for a verb in `--help`, where only its line is printed."""


def _completing() -> bool:
    return any(name.endswith("_COMPLETE") for name in os.environ)


def root(
    version: bool = typer.Option(False, "--version", help="Print the version and exit.", is_eager=True),
) -> None:
    """Bring embedding models up, prove their vectors, measure what they sustain, plan capacity."""
    if version:
        typer.echo(f"deploytool {__version__}")
        raise typer.Exit


def build() -> Command:
    app = typer.Typer(cls=LazyGroup, name="deploytool", no_args_is_help=True, invoke_without_command=True)
    app.callback()(root)
    return named(typer.main.get_command(app), "deploytool")


def main() -> None:
    """Run one command and exit with its code."""
    code = run(sys.argv[1:])
    if "deploytool.cli.output" in sys.modules:
        from deploytool.cli.output import flush

        flush()
    sys.exit(code)


def run(args: list[str]) -> int:
    """Run one command line; returns its exit code. Every expected error ends here."""
    from typer._click.exceptions import ClickException

    wants_json = "--json" in args
    try:
        result: Any = build().main(args=args, prog_name="deploytool", standalone_mode=False)
    except DeploytoolError as error:
        return report(error, wants_json)
    except (KeyboardInterrupt, typer.Abort):
        sys.stderr.write("interrupted\n")
        return 130
    except ClickException as error:
        error.show()
        return 2
    except Exception as error:
        return report_bug(error)
    return result if isinstance(result, int) else 0


def report(error: DeploytoolError, wants_json: bool) -> int:
    """Print an expected error for people, and as a document on stdout where JSON was asked for."""
    lines = [f"error: {error.message}", *(f"  {line}" for line in error.details)]
    if error.hint:
        lines.append(f"hint: {error.hint}")
    sys.stderr.write("\n".join(lines) + "\n")
    if wants_json:
        from deploytool.cli.output import emit

        emit(error.document())
    return error.exit_code


def report_bug(error: Exception) -> int:
    """An unexpected error: one line for the user, the traceback in a file to send."""
    text = "".join(traceback.format_exception(error))
    sys.stderr.write(f"error: unexpected {type(error).__name__}: {error}\n")
    try:
        from deploytool.paths import data_dir

        path = data_dir() / "last-error.txt"
        path.write_text(f"deploytool {__version__}\n{text}", encoding="utf-8")
        sys.stderr.write(f"hint: this is a fault of deploytool; the traceback is in {path}\n")
    except OSError:
        sys.stderr.write(text)
    return 1
