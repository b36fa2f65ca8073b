"""Writing what a command makes to the file that the user named: whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from deploytool.cli.output import unless_closed
from deploytool.errors import BadInput

STDOUT = Path("-")


def write_output(path: Path | None, content: str | bytes, *, option: str = "-o") -> None:
    """Write `content` to `path`; None or "-" is stdout. BadInput says why a file cannot be written.

    A regular file is replaced in one step: no reader sees half of it, and a full disk leaves the old one.
    `option` is what the user gave the file with.
    """
    data = content.encode() if isinstance(content, str) else content
    if path is None or path == STDOUT:
        with unless_closed(sys.stdout):
            sys.stdout.flush()
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        return
    with _told(path, option):
        target = _target(path, option)
        if target.exists() and not target.is_file():
            target.write_bytes(data)  # a device or a pipe: there is nothing to replace
        else:
            _replace(target, data)


def check_output(path: Path | None, *, option: str = "-o") -> None:
    """Raise BadInput where `path` is a folder or has none, before the work for it is done."""
    if path is not None and path != STDOUT:
        with _told(path, option):
            _target(path, option)


@contextlib.contextmanager
def _told(path: Path, option: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BadInput(
            f"cannot write {path}: {error.strerror or error}",
            hint=f"choose another file with {option}",
        ) from error


def _target(path: Path, option: str) -> Path:
    """The file itself, behind links. BadInput where its folder is missing or it is a folder."""
    target = Path(os.path.realpath(path.expanduser()))
    if target.is_dir():
        raise BadInput(
            f"cannot write {path}: it is a folder", hint=f"name a file in it: {option} {path / 'NAME'}"
        )
    if not target.parent.is_dir():
        raise BadInput(
            f"cannot write {path}: there is no folder {target.parent}", hint=f"mkdir -p {target.parent}"
        )
    return target


def _replace(target: Path, data: bytes) -> None:
    partial = target.with_name(f".{target.name[:200]}.{os.getpid()}.part")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, partial)
        partial.replace(target)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
