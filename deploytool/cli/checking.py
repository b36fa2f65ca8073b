"""What `profiles` and `models` share: broken files in a listing, and `validate`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from deploytool.catalog import Entry
from deploytool.cli.output import emit, note, say
from deploytool.documents import Fault
from deploytool.errors import InvalidFile, Problem, nearest


def warn_of_broken(entries: Iterable[Entry[Any]], verb: str) -> None:
    """A line on stderr for each file that a listing could not read, and how to see what is wrong."""
    for entry in entries:
        if entry.document is None:
            count = len(entry.problems)
            plural = "" if count == 1 else "s"
            note(f"warning: {entry.path} is left out: {count} problem{plural}; first: {entry.problems[0]}")
            note(f"hint: deploytool {verb} validate {entry.path}")


def as_document(entry: Entry[Any]) -> dict[str, Any]:
    """One entry of a listing as JSON: the whole document, or what is wrong with its file."""
    head = {"name": entry.name, "path": str(entry.path), "valid": entry.document is not None}
    if entry.document is None:
        return head | {"problems": [_plain(problem) for problem in entry.problems]}
    document: dict[str, Any] = entry.document.model_dump(mode="json")
    return head | document


def validate(files: Sequence[Path], read: Callable[[Path], object], as_json: bool) -> int:
    """Read every file and report all problems of all of them; exit code 2 where there is one."""
    problems: list[Problem] = []
    for path in files:
        try:
            read(path)
        except InvalidFile as invalid:
            problems += invalid.problems
    error = InvalidFile(problems, hint="mend these lines and validate again") if problems else None
    if not as_json and error is not None:
        raise error
    if as_json:
        document: dict[str, Any] = {
            "valid": error is None,
            "files": [str(path) for path in files],
            "problems": [_plain(problem) for problem in problems],
        }
        emit(document | (error.document() if error else {}))
    else:
        say(f"{len(files)} file{'' if len(files) == 1 else 's'} valid")
    if error is None:
        return 0
    note(f"error: {error.message}")
    return error.exit_code


def _plain(problem: Problem) -> dict[str, Any]:
    return {
        "file": str(problem.file),
        "line": problem.line,
        "field": problem.field,
        "message": problem.message,
    }


def facts(rows: Iterable[tuple[str, object]]) -> None:
    """Aligned `name  value` lines; a name whose value is None is left out, a list takes a line each."""
    shown = [(name, value) for name, value in rows if value is not None and value not in ("", ())]
    width = max(len(name) for name, _ in shown)
    for name, value in shown:
        lines = list(value) if isinstance(value, tuple | list) else [value]
        for index, line in enumerate(lines):
            say(f"{name if index == 0 else '':<{width}}  {line}")


def known_engines(field: str, engines: Iterable[str]) -> Callable[[Any], Iterable[Fault]]:
    """The rule that the keys of a field are engines that exist: a slip there would be without effect."""
    known = list(engines)

    def rule(document: Any) -> Iterable[Fault]:
        for name in getattr(document, field) or ():
            if name not in known:
                near = nearest(name, known)
                guess = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
                yield Fault((field, name), f"no engine has this name; {guess}")

    return rule
