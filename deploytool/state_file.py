"""The SQLite file below the store: opening it, its layout's version, transactions, and its failures.

Every failure becomes a NotAvailable that names the file and the mend.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploytool.errors import NotAvailable
from deploytool.paths import data_dir

LAYOUT = 1
BUSY_TIMEOUT_S = 15.0
FILE = "state.sqlite"
SIDE_FILES_BYTES = 64 << 10

TABLES = """
CREATE TABLE deployments (
    id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, port INTEGER, state TEXT NOT NULL, document TEXT NOT NULL
);
CREATE UNIQUE INDEX deployments_port ON deployments (port) WHERE port IS NOT NULL;
CREATE TABLE runs (id TEXT PRIMARY KEY, started_at TEXT NOT NULL, document TEXT NOT NULL);
CREATE TABLE forgotten (name TEXT PRIMARY KEY, at TEXT NOT NULL);
"""


class StateFile:
    """One connection. `folder` None: the user's data folder."""

    def __init__(self, folder: Path | None = None) -> None:
        with named_errors(folder):
            self.folder = folder if folder is not None else data_dir()
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Processes are marked with this path: it must be the same one whichever way one came.
            self.folder = self.folder.resolve()
            self.path = self.folder / FILE
            self.path.touch(mode=0o600)
            # Autocommit: transactions are begun where they are meant.
            self.database = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
            try:
                self._prepare()
            except BaseException:
                self.database.close()
                raise

    def rows(self, query: str, *values: object) -> list[tuple[str, ...]]:
        with named_errors(self.folder):
            found: list[tuple[str, ...]] = self.database.execute(query, values).fetchall()
            return found

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One write, whole or not at all; waits for other writers."""
        with named_errors(self.folder):
            self.database.execute("BEGIN IMMEDIATE")
            try:
                yield self.database
                self.database.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self.database.execute("ROLLBACK")
                raise

    def _version(self) -> int:
        version: int = self.database.execute("PRAGMA user_version").fetchone()[0]
        return version

    def _prepare(self) -> None:
        version = self._version()
        if version > LAYOUT:
            raise NotAvailable(
                f"{self.path} was written by a newer deploytool (layout {version}; this one knows {LAYOUT})",
                hint="use the newer deploytool, or set DEPLOYTOOL_HOME to another folder",
            )
        if version == LAYOUT:
            return
        self._switch_to_wal()
        with self.transaction():
            # Another process may have been first.
            if self._version() == 0:
                for statement in TABLES.split(";"):
                    self.database.execute(statement)
                self.database.execute(f"PRAGMA user_version = {LAYOUT}")

    def _switch_to_wal(self) -> None:
        """SQLite's busy time-out does not cover this statement: several first commands at once collide."""
        deadline = time.monotonic() + BUSY_TIMEOUT_S
        while True:
            try:
                self.database.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() >= deadline:
                    raise
                time.sleep(0.02)


@contextmanager
def named_errors(folder: Path | None) -> Iterator[None]:
    """What can go wrong with files, each with its mend."""
    try:
        yield
    except sqlite3.Error as error:
        raise _named(error, folder / FILE if folder else Path(FILE)) from error
    except OSError as error:
        raise NotAvailable(
            f"{error.filename or folder or 'the data folder'}: {error.strerror or error}",
            hint="set DEPLOYTOOL_HOME to a folder on a disk with space that you may write to",
        ) from error


def _named(error: sqlite3.Error, path: Path) -> NotAvailable:
    text = str(error)
    if "malformed" in text or "not a database" in text:
        return NotAvailable(
            f"the state file {path} is damaged ({text})",
            hint=f"move it aside (mv {path} {path}.damaged): what still runs is then named by "
            "`deploytool ps` and ended by `deploytool down --all`",
        )
    if "full" in text or ("I/O" in text and _is_full(path)):
        return NotAvailable(f"no space left for {path}", hint="free some disk space, or set DEPLOYTOOL_HOME")
    if "readonly" in text or "unable to open" in text:
        return NotAvailable(
            f"{path} cannot be written ({text})",
            hint="make the folder writable, or set DEPLOYTOOL_HOME to one that is",
        )
    if "locked" in text:
        return NotAvailable(
            f"another deploytool holds {path} for longer than {BUSY_TIMEOUT_S:g} s",
            hint="try again; if no other deploytool runs, is the folder on a network disk?",
        )
    return NotAvailable(f"the state file {path} failed: {text}", hint="set DEPLOYTOOL_HOME to another folder")


def _is_full(path: Path) -> bool:
    """Whether the disk has no room even for SQLite's small side files, which fail as an I/O error."""
    try:
        return shutil.disk_usage(path.parent).free < SIDE_FILES_BYTES
    except OSError:
        return False
