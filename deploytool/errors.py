"""Every error that a person can cause or meet, with its exit code.

    DeploytoolError
    ├── CheckFailed (1)          a check, gate or SLO did not hold
    ├── BadInput (2)             usage or bad input
    │   ├── UnknownName          with the nearest known names
    │   └── InvalidFile          all problems of a file at once
    ├── DoesNotFit (3)           the model does not fit the hardware
    ├── Incompatible (4)         the engine or hardware cannot serve the model correctly
    ├── StartFailed (5)          the server died or was not ready in time
    ├── Unhealthy (6)            reachable, but not right
    ├── Taken (7)                port or name in use
    ├── NotAvailable (8)         GPU, driver, engine, package, model files or Docker missing
    └── Interrupted (130)        Ctrl-C

Each carries a message (what happened), a hint (what to do now) and `details`, lines shown once below the
message (a log's end, a pasteable command). `deploytool.cli.main` is the one place that prints them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar


class DeploytoolError(Exception):
    """An expected failure. `exit_code` is the process's exit status, `code` its name in JSON."""

    exit_code: ClassVar[int] = 1
    code: ClassVar[str] = "error"

    def __init__(self, message: str, *, hint: str | None = None, details: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = tuple(details)
        for line in self.details:
            self.add_note(line)  # a traceback shows them too

    def document(self) -> dict[str, Any]:
        """The error as the JSON document that `--json` prints."""
        return {
            "error": {
                "code": self.code,
                "exit_code": self.exit_code,
                "message": self.message,
                "hint": self.hint,
                "details": list(self.details),
            }
        }


class CheckFailed(DeploytoolError):
    exit_code = 1
    code = "check_failed"


class BadInput(DeploytoolError):
    exit_code = 2
    code = "bad_input"


class UnknownName(BadInput):
    """A name that is not known; the hint holds the nearest ones."""

    code = "unknown_name"

    def __init__(self, kind: str, name: str, known: Iterable[str], *, hint: str | None = None) -> None:
        names = sorted(known)
        near = nearest(name, names)
        if near:
            guess = f"did you mean {' or '.join(near)}?"
        elif names:
            guess = f"known: {', '.join(names)}"
        else:
            guess = f"there is no {kind} yet"
        super().__init__(f"no {kind} is named {name!r}", hint=f"{guess} {hint}" if hint else guess)
        self.near = near


@dataclass(frozen=True)
class Problem:
    """One problem of a file: where it is and what was expected there."""

    file: Path
    line: int | None
    field: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else str(self.file)
        return f"{place}: {self.field}: {self.message}" if self.field else f"{place}: {self.message}"


class InvalidFile(BadInput):
    """A file of the user's with problems, all of them."""

    code = "invalid_file"

    def __init__(self, problems: Sequence[Problem], *, hint: str | None = None) -> None:
        files = sorted({str(problem.file) for problem in problems})
        count = len(problems)
        super().__init__(
            f"{count} problem{'s' if count != 1 else ''} in {', '.join(files)}",
            hint=hint,
            details=[str(problem) for problem in problems],
        )
        self.problems = tuple(problems)


class DoesNotFit(DeploytoolError):
    exit_code = 3
    code = "does_not_fit"


class Incompatible(DeploytoolError):
    exit_code = 4
    code = "incompatible"


class StartFailed(DeploytoolError):
    exit_code = 5
    code = "start_failed"


class Unhealthy(DeploytoolError):
    exit_code = 6
    code = "unhealthy"


class Taken(DeploytoolError):
    exit_code = 7
    code = "taken"


class NotAvailable(DeploytoolError):
    exit_code = 8
    code = "not_available"


class Interrupted(DeploytoolError):
    exit_code = 130
    code = "interrupted"


def missing_extra(package: str, extra: str, what: str) -> NotAvailable:
    """The error for a part that an extra brings: says which package, for what, and how to get it."""
    return NotAvailable(
        f"{what} needs the package {package}, which is not installed",
        hint=f"pip install 'deploytool[{extra}]'",
    )


def nearest(name: str, known: Iterable[str], limit: int = 3) -> list[str]:
    """The known names nearest to `name`, best first, also when only case, '-' or '_' differ."""
    by_plain: dict[str, str] = {}
    for candidate in known:
        by_plain.setdefault(_plain(candidate), candidate)
    plain = _plain(name)
    found = difflib.get_close_matches(plain, by_plain, n=limit, cutoff=0.6)
    if plain:
        found += [key for key in by_plain if key not in found and plain in key]
    return [by_plain[key] for key in found[:limit]]


def _plain(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())
