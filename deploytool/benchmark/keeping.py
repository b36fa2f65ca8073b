"""The raw samples of a run on disk: a part for each cell while it is measured, one file of all of them."""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from deploytool import samples
from deploytool.errors import InvalidFile, NotAvailable


class KeptSamples:
    """The samples of the run in `folder`. A cell that is measured again replaces its own part only."""

    def __init__(self, folder: Path) -> None:
        self.whole = folder / "samples.parquet"
        self.parts = folder / "parts"

    def take_apart(self) -> None:
        """Before a finished run goes on: its one file as parts again, so that a cell can be replaced.

        A file that is damaged cannot be; it is put aside, under another name.
        """
        if self.parts.is_dir() or not self.whole.exists():
            return
        partial = self.parts.with_name("parts.new")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            rows = samples.stream(self.whole)
            for name, group in itertools.groupby(rows, key=lambda row: str(row["cell"])):
                samples.write(partial / self.part(part_name(name)).name, samples.REQUESTS, group)
        except InvalidFile:
            shutil.rmtree(partial)
            self.whole.replace(self.whole.with_name("samples.damaged.parquet"))
            return
        partial.replace(self.parts)

    def part(self, name: str) -> Path:
        return self.parts / f"{name}.parquet"

    def add(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """The samples of a cell, instead of those that the part of this name had."""
        self.parts.mkdir(exist_ok=True)
        samples.write(self.part(name), samples.REQUESTS, rows)

    def join(self) -> None:
        """All parts as one file, in the order in which they were measured."""
        if self.parts.is_dir():
            found = sorted(self.parts.glob("*.parquet"), key=lambda path: path.stat().st_mtime_ns)
            samples.concat(self.whole, found, samples.REQUESTS)

    def drop_parts(self) -> None:
        shutil.rmtree(self.parts, ignore_errors=True)


def part_name(cell: str) -> str:
    """The part, and the folder, of a cell by its name ("b8 c4")."""
    return cell.replace(" ", "-")


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """A disk that takes no more, as a NotAvailable that says what to do."""
    try:
        yield
    except OSError as error:
        raise NotAvailable(
            f"cannot write in {folder}: {error.strerror or error}",
            hint="free space there or move the data folder with DEPLOYTOOL_HOME; --resume goes on",
        ) from error
