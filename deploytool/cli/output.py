"""How results reach people and programs: stdout carries the result, stderr progress and logs."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any, TextIO


def emit(document: Any) -> None:
    """Print one JSON document on stdout."""
    import json

    say(json.dumps(document, indent=2, ensure_ascii=False, default=str))


def say(line: str = "") -> None:
    """One line of the result, on stdout."""
    with unless_closed(sys.stdout):
        sys.stdout.write(line + "\n")


def note(line: str) -> None:
    """One line of progress or advice, on stderr."""
    with unless_closed(sys.stderr):
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


@contextlib.contextmanager
def unless_closed(stream: TextIO) -> Iterator[None]:
    """`deploytool up ... 2>&1 | head` closes the pipe: nothing is wrong, and what else is told goes nowhere."""
    try:
        yield
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def open_what_is_closed() -> None:
    """A descriptor that was closed before the start (`>&-`) would become that of the first file opened."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            with contextlib.suppress(OSError):
                os.fstat(number)
                continue
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w"))


def flush() -> None:
    """Hand what is buffered to stdout and stderr, before the interpreter does and complains."""
    for stream in (sys.stdout, sys.stderr):
        with unless_closed(stream):
            stream.flush()


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, right: Sequence[str] = ()) -> None:
    """A plain aligned table on stdout; `right` names the columns set flush right. None prints as a dash."""
    texts = [[_cell(value) for value in row] for row in rows]
    widths = [
        max([len(column), *(_width(row[index]) for row in texts)]) for index, column in enumerate(columns)
    ]
    for row in [list(columns), *texts]:
        cells = []
        for column, width, text in zip(columns, widths, row, strict=True):
            gap = " " * (width - _width(text))
            cells.append(gap + text if column in right else text + gap)
        say("  ".join(cells).rstrip())


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.2f}"
    return str(value)


def _width(text: str) -> int:
    """Columns on a terminal: wide characters take two."""
    import unicodedata

    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)
