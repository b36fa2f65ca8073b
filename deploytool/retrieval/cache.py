"""Embeddings that were computed once, in one SQLite file: a second run is instant, a killed one goes on.

A space is what a vector hangs on beside its text: model, revision, who computed it, prompt, and the
dimensions asked for. Vectors are little-endian float32. Texts are kept as hashes only.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from deploytool.errors import NotAvailable

if TYPE_CHECKING:
    from deploytool.retrieval.search import Matrix

FILE = "embeddings.sqlite3"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS spaces (
  id INTEGER PRIMARY KEY, model TEXT NOT NULL, revision TEXT NOT NULL, computed_by TEXT NOT NULL,
  prompt TEXT NOT NULL, dimensions INTEGER NOT NULL,
  UNIQUE (model, revision, computed_by, prompt, dimensions)
);
CREATE TABLE IF NOT EXISTS vectors (
  space INTEGER NOT NULL, text BLOB NOT NULL, vector BLOB NOT NULL, cut INTEGER, PRIMARY KEY (space, text)
) WITHOUT ROWID;
PRAGMA user_version = 1;
"""
_ASKED_AT_ONCE = 500


@dataclass(frozen=True)
class Space:
    """`computed_by`: engine and dtype of a deployment, or the address. `dimensions` 0: the full width."""

    model: str
    revision: str
    computed_by: str
    prompt: str
    dimensions: int = 0


@dataclass(frozen=True)
class Kept:
    """One vector, packed; `cut` says whether the text was truncated for it, None where unknown."""

    vector: bytes
    cut: bool | None = None


class EmbeddingCache:
    """One connection, for one thread. A file that SQLite cannot read is set aside and begun anew."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self.note: str | None = None
        try:
            self._database = self._opened()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise NotAvailable(
                    f"the embedding cache {self.path} cannot be opened: {error}",
                    hint="free space there, mend its permissions, or go without: --no-cache",
                ) from error
            self.path.replace(self.path.with_suffix(".broken"))
            for suffix in ("-wal", "-shm"):
                self.path.with_name(FILE + suffix).unlink(missing_ok=True)
            self.note = f"the embedding cache was broken ({error}): set aside, begun anew"
            self._database = self._opened()

    def _opened(self) -> sqlite3.Connection:
        database = sqlite3.connect(self.path, timeout=30, isolation_level=None)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            database.executescript(_SCHEMA)
        except sqlite3.DatabaseError:
            database.close()
            raise
        return database

    def __enter__(self) -> EmbeddingCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        with suppress(sqlite3.Error):
            self._database.close()

    def space(self, space: Space) -> int:
        """The number of a space, made on first use."""
        values = (space.model, space.revision, space.computed_by, space.prompt, space.dimensions)
        self._database.execute(
            "INSERT OR IGNORE INTO spaces (model, revision, computed_by, prompt, dimensions)"
            " VALUES (?, ?, ?, ?, ?)",
            values,
        )
        row = self._database.execute(
            "SELECT id FROM spaces WHERE model = ? AND revision = ? AND computed_by = ? AND prompt = ?"
            " AND dimensions = ?",
            values,
        ).fetchone()
        number: int = row[0]
        return number

    def others(self, space: Space) -> list[tuple[int, str]]:
        """(number, computed_by) of the same model, revision and prompt, computed by somebody else."""
        return self._database.execute(
            "SELECT id, computed_by FROM spaces WHERE model = ? AND revision = ? AND prompt = ?"
            " AND dimensions = ? AND computed_by != ? ORDER BY id DESC",
            (space.model, space.revision, space.prompt, space.dimensions, space.computed_by),
        ).fetchall()

    def get(self, number: int, texts: Iterable[str]) -> dict[str, Kept]:
        """What is kept of these texts."""
        by_hash = {digest(text): text for text in texts}
        hashes = list(by_hash)
        found: dict[str, Kept] = {}
        for start in range(0, len(hashes), _ASKED_AT_ONCE):
            part = hashes[start : start + _ASKED_AT_ONCE]
            marks = ", ".join("?" * len(part))
            rows = self._database.execute(
                f"SELECT text, vector, cut FROM vectors WHERE space = ? AND text IN ({marks})",  # noqa: S608
                (number, *part),
            )
            for key, vector, cut in rows:
                found[by_hash[key]] = Kept(vector, None if cut is None else bool(cut))
        return found

    def put(self, number: int, vectors: Mapping[str, Kept]) -> None:
        """Keep vectors by text, in one transaction. A full disk loses nothing but the cache: NotAvailable."""
        rows = [(number, digest(text), kept.vector, kept.cut) for text, kept in vectors.items()]
        try:
            with self._database:
                self._database.execute("BEGIN IMMEDIATE")
                self._database.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?, ?)", rows)
        except sqlite3.OperationalError as error:
            raise NotAvailable(
                f"the embedding cache {self.path} cannot be written: {error}",
                hint="free space there, or go without: --no-cache",
            ) from error

    def forget(self, number: int) -> None:
        self._database.execute("DELETE FROM vectors WHERE space = ?", (number,))


def digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def pack(vector: Sequence[float]) -> bytes:
    import numpy as np

    return np.asarray(vector, dtype="<f4").tobytes()


def unpack(rows: Sequence[bytes]) -> Matrix:
    """(n, d) float32 of packed vectors of one width. ValueError where their widths differ."""
    import numpy as np

    if len({len(row) for row in rows}) > 1:
        raise ValueError("vectors of different widths")
    matrix = np.frombuffer(b"".join(rows), dtype="<f4").astype(np.float32)
    return matrix.reshape(len(rows), -1)
