"""Lines on stderr for people and launchers: "stage: ...", "note: ...", "fatal: ..." and then "hint: ..."."""

from __future__ import annotations

import contextlib
import sys

from deploytool.st_server.errors import StartError

_voice = [""]


def speak_as(prefix: str) -> None:
    """Put this before every line but the fatal ones, which a launcher looks for: one of several workers speaks."""
    _voice[0] = prefix


def say(line: str) -> None:
    """One line; a launcher that is gone is no reason to fail."""
    _write(f"{_voice[0]}{line}\n")


def _write(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(text)
        sys.stderr.flush()


def say_fatal(error: StartError) -> None:
    hint = f"hint: {error.hint}\n" if error.hint else ""
    _write(f"fatal: {error.message}\n{hint}")
