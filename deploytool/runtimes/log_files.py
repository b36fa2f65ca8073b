"""Reading a log that another process writes and rotates: `server.log`, its older half `server.log.1`."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import BinaryIO

BLOCK = 1 << 16
LONGEST_LINE = 1 << 20
LOST = "[deploytool: lines were rotated away before they could be read]"


class FileLog:
    """Follows the file over rotations, from its last `last` lines on; None: all of the newer half."""

    def __init__(self, path: Path, last: int | None = None) -> None:
        self.path = path
        self.older = path.with_name(path.name + ".1")
        self.partial = b""
        self.file: BinaryIO | None = None
        self.backlog: list[str] = []
        if last is not None:
            self._start_at_last(last)

    def read(self) -> list[str]:
        """Complete lines since the last call."""
        lines, self.backlog = self.backlog, []
        if self.file is None:
            self._open()
        while self.file is not None:
            rotated = self._rotated()
            # Read after looking: what was written before the rotation is all there now.
            while data := self.file.read(BLOCK):
                lines += self._take(data)
            if not rotated:
                break
            if _inode(self.older) not in (None, os.fstat(self.file.fileno()).st_ino):
                lines.append(LOST)
            self.close()
            self._open()
        return lines

    def rest(self) -> list[str]:
        """What is left when nothing more will come, an unfinished last line included."""
        lines = self.read()
        partial, self.partial = self.partial, b""
        self.close()
        return lines + ([_text(partial)] if partial else [])

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None

    def _open(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.file = self.path.open("rb")

    def _start_at_last(self, count: int) -> None:
        """Place the reader `count` lines before the end; the older half fills up what the newer lacks."""
        self._open()
        found = _seek_to_last(self.file, count) if self.file else 0
        if found < count and self.older.exists():
            with self.older.open("rb") as older:
                _seek_to_last(older, count - found)
                self.backlog = [_text(line) for line in older.read().rstrip(b"\n").split(b"\n")]

    def _rotated(self) -> bool:
        there = _inode(self.path)
        return self.file is not None and there is not None and there != os.fstat(self.file.fileno()).st_ino

    def _take(self, data: bytes) -> list[str]:
        *whole, self.partial = (self.partial + data).split(b"\n")
        if len(self.partial) > LONGEST_LINE:
            whole.append(self.partial)
            self.partial = b""
        return [_text(line) for line in whole]


def _seek_to_last(file: BinaryIO, count: int) -> int:
    """Seek to the beginning of the last `count` lines; returns how many there are from there on."""
    position = file.seek(0, os.SEEK_END)
    blocks: list[bytes] = []
    newlines, size = 0, 0
    # One newline ends the last line; one more ends the line before the first that is wanted.
    while position > 0 and newlines <= count and size < BLOCK + count * LONGEST_LINE:
        step = min(BLOCK, position)
        position -= step
        file.seek(position)
        block = file.read(step)
        blocks.append(block)
        newlines, size = newlines + block.count(b"\n"), size + step
    data = b"".join(reversed(blocks))
    lines = data.removesuffix(b"\n").split(b"\n") if data else []
    kept = lines[max(0, len(lines) - count) :]
    width = len(b"\n".join(kept)) + data.endswith(b"\n")
    file.seek(position + len(data) - (width if kept else 0))
    return len(kept)


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None


def _text(line: bytes) -> str:
    """One line as a terminal would leave it: of a progress bar, what was last written over the rest."""
    return line.decode("utf-8", errors="replace").rstrip("\r").rpartition("\r")[2]
