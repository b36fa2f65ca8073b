"""The state of this tool: one SQLite file (WAL) with deployments and load runs as JSON documents.

Beside it lie `deployments/ID/` (a server's log and how it ended) and `runs/ID/` (raw samples). Every write is
one transaction; names are unique, ports are unique among deployments that may be listening. The file carries
the version of its layout (`PRAGMA user_version`): a newer one is refused, never half-read.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from deploytool import paths
from deploytool.errors import NotAvailable, Taken, UnknownName
from deploytool.glance import DEPLOYMENT_SCHEMA, Glance, glance
from deploytool.identity import is_alive
from deploytool.state_file import StateFile, named_errors

if TYPE_CHECKING:
    from deploytool.records import Deployment, RunRecord

AnyRecord = TypeVar("AnyRecord", "Deployment", "RunRecord")


class ListedRuns(NamedTuple):
    """Runs, newest first, and by its id why each of the others cannot be read."""

    readable: list[RunRecord]
    unreadable: dict[str, NotAvailable]


class Store:
    """Open it, use it, close it; also a context manager. Every failure of the file is a NotAvailable."""

    def __init__(self, folder: Path | None = None) -> None:
        self._file = StateFile(folder)
        self.folder = self._file.folder

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._file.database.close()

    # Deployments

    def deployments(self) -> list[Deployment]:
        """All of them, oldest first."""
        rows = self._file.rows("SELECT document FROM deployments ORDER BY rowid")
        return [_deployment(document) for (document,) in rows]

    def ids(self) -> set[str]:
        """Of all deployments."""
        return {known for (known,) in self._file.rows("SELECT id FROM deployments")}

    def glances(self) -> list[Glance] | None:
        """All deployments without pydantic, oldest first; None where one needs its own class to be read."""
        found = [
            glance(document)
            for (document,) in self._file.rows("SELECT document FROM deployments ORDER BY rowid")
        ]
        return None if None in found else [one for one in found if one]

    def deployment(self, name: str) -> Deployment:
        """The deployment of that name; UnknownName with the nearest ones."""
        rows = self._file.rows("SELECT document FROM deployments WHERE name = ?", name)
        if not rows:
            known = [known for (known,) in self._file.rows("SELECT name FROM deployments")]
            raise UnknownName("deployment", name, known, hint="(`deploytool ps` lists them)")
        return _deployment(rows[0][0])

    def reserve(self, deployment: Deployment) -> None:
        """Add a deployment; Taken where its name or port is another one's. Atomic over processes."""
        with self._file.transaction() as database:
            _refuse_taken(database, deployment)
            database.execute("DELETE FROM forgotten WHERE name = ?", (deployment.name,))
            database.execute(
                "INSERT INTO deployments (id, name, port, state, document) VALUES (?, ?, ?, ?, ?)",
                (deployment.id, *_columns(deployment)),
            )

    def update(self, deployment: Deployment) -> None:
        """Write a deployment; UnknownName where it was forgotten, Taken where its port is another's now."""
        with self._file.transaction() as database:
            _write(database, deployment)

    def change(self, deployment_id: str, change: Callable[[Deployment], None]) -> Deployment | None:
        """Read, change and write in one transaction, so that no other command's news are lost.

        None where the deployment was forgotten meanwhile.
        """
        with self._file.transaction() as database:
            rows = database.execute(
                "SELECT document FROM deployments WHERE id = ?", (deployment_id,)
            ).fetchall()
            if not rows:
                return None
            deployment = _deployment(rows[0][0])
            change(deployment)
            _write(database, deployment)
            return deployment

    def forget(self, name: str, deployment_id: str | None = None) -> None:
        """Remove a deployment and its folder; its name is remembered as one that was.

        `deployment_id`: only where the name is still that one's, and not a later one's.
        """
        with self._file.transaction() as database:
            row = database.execute("SELECT id FROM deployments WHERE name = ?", (name,)).fetchone()
            if row is None or deployment_id not in (None, row[0]):
                return
            database.execute("DELETE FROM deployments WHERE name = ?", (name,))
            database.execute("INSERT OR REPLACE INTO forgotten (name, at) VALUES (?, ?)", (name, now()))
        shutil.rmtree(self.folder_of(row[0]), ignore_errors=True)

    def forgotten_at(self, name: str) -> str | None:
        """When a deployment of that name was taken down last (ISO 8601, UTC); None: never, or it is back."""
        rows = self._file.rows("SELECT at FROM forgotten WHERE name = ?", name)
        return rows[0][0] if rows else None

    def folder_of(self, deployment_id: str) -> Path:
        """The folder of a deployment's log and ending, which may not be there."""
        return paths.deployment_folder(self.folder, deployment_id)

    def deployment_folder(self, deployment_id: str) -> Path:
        """`folder_of`, made on first use, for the user only."""
        folder = self.folder_of(deployment_id)
        with named_errors(self.folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder

    # Load runs

    def add_run(self, run: RunRecord) -> None:
        with self._file.transaction() as database:
            database.execute(
                "INSERT INTO runs (id, started_at, document) VALUES (?, ?, ?)",
                (run.id, run.started_at, run.model_dump_json()),
            )

    def update_run(self, run: RunRecord) -> None:
        """Write a run that `add_run` added; UnknownName otherwise."""
        with self._file.transaction() as database:
            changed = database.execute(
                "UPDATE runs SET document = ? WHERE id = ?", (run.model_dump_json(), run.id)
            ).rowcount
        if not changed:
            raise UnknownName("run", run.id, [], hint="it was removed meanwhile")

    def runs(self) -> list[RunRecord]:
        """The runs that can be read, newest first. One whose tool was killed is told as interrupted."""
        return self.listed_runs().readable

    def listed_runs(self) -> ListedRuns:
        """All runs: one damaged record, or one of a newer deploytool, hides no other."""
        readable, unreadable = [], {}
        rows = self._file.rows("SELECT id, document FROM runs ORDER BY started_at DESC, rowid DESC")
        for run_id, document in rows:
            try:
                readable.append(_mended(_run(document)))
            except NotAvailable as error:
                unreadable[run_id] = error
        return ListedRuns(readable, unreadable)

    def run(self, reference: str) -> RunRecord:
        """A run by its id, a unique beginning of it, or `latest`; UnknownName otherwise."""
        if reference == "latest":
            rows = self._file.rows(
                "SELECT id, document FROM runs ORDER BY started_at DESC, rowid DESC LIMIT 1"
            )
        else:
            rows = self._file.rows(
                "SELECT id, document FROM runs WHERE id = ?", reference
            ) or self._file.rows(
                "SELECT id, document FROM runs WHERE substr(id, 1, length(?)) = ?", reference, reference
            )
        if reference and len(rows) == 1:
            return _mended(_run(rows[0][1]))
        known = [known for (known,) in self._file.rows("SELECT id FROM runs ORDER BY started_at DESC")]
        if reference and rows:
            several = ", ".join(known for known, _ in rows[:5])
            raise UnknownName("run", reference, [], hint=f"several begin so: {several}")
        raise UnknownName("run", reference, known, hint="(`deploytool runs list` lists them)")

    def run_folder(self, run_id: str) -> Path:
        """The folder of a run's raw samples; made on first use, for the user only."""
        folder = self.folder / "runs" / run_id
        with named_errors(self.folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder


def now() -> str:
    """This moment, ISO 8601 in UTC, as records carry it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _port(deployment: Deployment) -> int | None:
    """The port that a deployment holds; a stopped or dead one holds none."""
    return None if deployment.state in ("stopped", "died") else deployment.launch.port


def _name_hint(name: str, state: str) -> str:
    again = f"`deploytool restart {name}` brings it up again, " if state in ("stopped", "died") else ""
    return f"{again}`deploytool down {name}` frees the name, --name gives this one another"


def _deployment(document: str) -> Deployment:
    from deploytool.records import Deployment

    return _read(Deployment, document, DEPLOYMENT_SCHEMA)


def _run(document: str) -> RunRecord:
    from deploytool.records import RUN_SCHEMA, RunRecord

    return _read(RunRecord, document, RUN_SCHEMA)


def _read(kind: type[AnyRecord], document: str, known: int) -> AnyRecord:
    from pydantic import ValidationError

    try:
        record = kind.model_validate_json(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise NotAvailable(
            f"a stored {kind.__name__} cannot be read: {where}: {first['msg']}",
            hint="it was written by another version of deploytool: use that one",
        ) from error
    if record.schema_version > known:
        raise NotAvailable(
            f"a stored {kind.__name__} has schema {record.schema_version}; this deploytool knows {known}",
            hint="use the newer deploytool that wrote it",
        )
    return record


def _mended(run: RunRecord) -> RunRecord:
    """A run that says `running` although nobody runs it was cut off: its finished cells stay."""
    if run.state == "running" and not is_alive(run.owner):
        run.state = "interrupted"
        run.reason = run.reason or "the tool that measured was killed"
    return run


def _columns(deployment: Deployment) -> tuple[str, int | None, str, str]:
    return deployment.name, _port(deployment), deployment.state, deployment.model_dump_json()


def _write(database: sqlite3.Connection, deployment: Deployment) -> None:
    _refuse_taken(database, deployment)
    changed = database.execute(
        "UPDATE deployments SET name = ?, port = ?, state = ?, document = ? WHERE id = ?",
        (*_columns(deployment), deployment.id),
    ).rowcount
    if not changed:
        raise UnknownName("deployment", deployment.name, [], hint="it was taken down meanwhile")


def _refuse_taken(database: sqlite3.Connection, deployment: Deployment) -> None:
    """Names and ports of others, looked at inside the caller's transaction."""
    port = _port(deployment)
    others = database.execute("SELECT name, port, state FROM deployments WHERE id <> ?", (deployment.id,))
    for name, other_port, state in others.fetchall():
        if name == deployment.name:
            raise Taken(f"the name {name} is taken by a deployment ({state})", hint=_name_hint(name, state))
        if port is not None and other_port == port:
            raise Taken(
                f"port {port} is taken by the deployment {name} ({state})",
                hint=f"--port auto finds a free one, or `deploytool down {name}`",
            )
