"""Runs one command line. This is the one place that turns exceptions into messages and exit codes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from deploytool import __version__
from deploytool.cli import output
from deploytool.cli.verbs import COMMANDS, Verb, help_text

if TYPE_CHECKING:
    from deploytool.errors import DeploytoolError

__all__ = ["COMMANDS", "Verb", "main", "run"]


def main() -> None:
    """Run one command and exit with its code."""
    output.open_what_is_closed()
    code = run(sys.argv[1:])
    output.flush()
    sys.exit(code)


def run(args: list[str]) -> int:
    """Run one command line; returns its exit code. Every expected error ends here."""
    if args == ["--help"]:  # answered before Typer is loaded, which takes longer than all the rest
        output.say(help_text())
        return 0
    from deploytool.errors import DeploytoolError

    try:
        if args in (["ps"], ["ps", "--json"]):  # without Typer too: it is typed most
            from deploytool.cli.deploy_view import list_deployments

            list_deployments(as_json="--json" in args)
            return 0
        return _by_typer(args)
    except DeploytoolError as error:
        return report(error, as_json="--json" in args)
    except KeyboardInterrupt:
        output.note("interrupted")
        return 130
    except Exception as error:
        return report_bug(error)


def _by_typer(args: list[str]) -> int:
    from typer import Abort
    from typer._click.exceptions import ClickException

    from deploytool.cli.root import build

    try:
        result: Any = build().main(args=args, prog_name="deploytool", standalone_mode=False)
    except Abort:
        raise KeyboardInterrupt from None
    except ClickException as error:
        with output.unless_closed(sys.stderr):
            error.show()
        return 2
    return result if isinstance(result, int) else 0


def report(error: DeploytoolError, *, as_json: bool) -> int:
    """Print an expected error for people, and as a document on stdout where JSON was asked for."""
    lines = [f"error: {error.message}", *(f"  {line}" for line in error.details)]
    if error.hint:
        lines.append(f"hint: {error.hint}")
    output.note("\n".join(lines))
    if as_json:
        output.emit(error.document())
    return error.exit_code


def report_bug(error: Exception) -> int:
    """An unexpected error: one line for the user, the traceback in a file to send."""
    import traceback

    text = "".join(traceback.format_exception(error))
    output.note(f"error: unexpected {type(error).__name__}: {error}")
    try:
        from deploytool.paths import data_dir

        path = data_dir() / "last-error.txt"
        path.write_text(f"deploytool {__version__}\n{text}", encoding="utf-8")
        output.note(f"hint: this is a fault of deploytool; the traceback is in {path}")
    except OSError:
        output.note(text)
    return 1
