"""What a bake-off keeps: finished stages by what they depend on, and which servers of its own are up.

A stage's key is the hash of everything that its figures hang on: a stage of the same system, load points and
data set is taken from here, in whichever file it stands; a change measures anew. All of it lies beside the
store, in `bakeoffs/`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from deploytool import __version__
from deploytool.errors import Taken
from deploytool.schema import Record
from deploytool.state_file import named_errors

STAGE_SCHEMA = 1
FOLDER = "bakeoffs"

StageName = Literal["start", "load", "capacity", "eval", "search"]


class Stage(Record):
    """One finished stage of one system. History: schema 1 (first)."""

    schema_version: int = STAGE_SCHEMA
    key: str
    stage: StageName
    system: str
    dataset: str | None = None
    finished_at: str
    seconds: float
    rss_peak_mib: float | None = None
    vram_peak_mib: float | None = None
    memory_reason: str | None = Field(default=None, description="why there is no peak")
    result: dict[str, Any]


def key_of(stage: StageName, depends_on: Mapping[str, Any]) -> str:
    """The hash of what a stage depends on."""
    document = {"stage": stage, "schema": STAGE_SCHEMA, "tool": __version__, **depends_on}
    text = json.dumps(document, sort_keys=True, default=str, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class Kept:
    """The folder of finished stages. `fresh`: what was kept before is not looked at."""

    def __init__(self, data: Path, *, fresh: bool = False) -> None:
        self.folder = data / FOLDER
        self._fresh = fresh
        self._written: set[str] = set()
        with named_errors(data):
            (self.folder / "stages").mkdir(parents=True, exist_ok=True, mode=0o700)

    def find(self, key: str) -> Stage | None:
        """The stage of that key; None where there is none, or it cannot be read (it is measured again)."""
        if self._fresh and key not in self._written:
            return None
        try:
            stage = Stage.model_validate_json(self._path(key).read_text(encoding="utf-8"))
        except (OSError, ValidationError, UnicodeDecodeError):
            return None
        return stage if stage.schema_version == STAGE_SCHEMA else None

    def keep(self, stage: Stage) -> None:
        """Whole or not at all: a kill leaves no half of it."""
        self._write(self._path(stage.key), stage.model_dump_json())
        self._written.add(stage.key)

    def _path(self, key: str) -> Path:
        return self.folder / "stages" / f"{key}.json"

    def _write(self, path: Path, text: str) -> None:
        with named_errors(self.folder):
            part = path.with_suffix(".part")
            part.write_text(text, encoding="utf-8")
            part.replace(path)

    # Servers of its own

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Taken where another bake-off is at work: they would measure each other."""
        with named_errors(self.folder), (self.folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise Taken(
                    "another bake-off is at work on this machine",
                    hint="wait for it: two at once would measure each other",
                ) from error
            yield

    def up(self) -> list[str]:
        """Deployments that a bake-off brought up and did not take down: one that was killed."""
        try:
            names = json.loads((self.folder / "up.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return []
        return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []

    def is_up(self, name: str) -> None:
        """Written before the server is started, so that none is ever forgotten."""
        self._write(self.folder / "up.json", json.dumps([*self.up(), name]))

    def is_down(self, name: str) -> None:
        self._write(self.folder / "up.json", json.dumps([one for one in self.up() if one != name]))
