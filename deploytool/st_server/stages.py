"""Lines on stderr for people and launchers: "stage: ...", "note: ...", "fatal: ..." and then "hint: ..."."""

from __future__ import annotations

import contextlib
import sys

from deploytool.st_server.errors import StartError


def say(line: str) -> None:
    """One line; a launcher that is gone is no reason to fail."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def say_fatal(error: StartError) -> None:
    say(f"fatal: {error.message}")
    if error.hint:
        say(f"hint: {error.hint}")
