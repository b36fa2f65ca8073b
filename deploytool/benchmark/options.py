"""What a load run is asked to do, and whom it tells how it goes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from pydantic import Field, ValidationError, field_validator

from deploytool import documents
from deploytool.errors import BadInput
from deploytool.loadgen import scenarios
from deploytool.loadgen.child import MOST_CLIENTS
from deploytool.loadgen.plan import Live
from deploytool.records import Cell, RunRecord, cell_name
from deploytool.schema import Document

MOST_BATCH = 4096
MOST_RATE = 100_000
LONGER = 10  # times its duration a cell may take for --min-samples


class Point(NamedTuple):
    """One cell to measure. `rate` None: closed loop; else `concurrency` is the most in flight."""

    batch: int
    concurrency: int
    rate: float | None = None

    @property
    def name(self) -> str:
        return cell_name(self.batch, self.concurrency, self.rate)


class LoadOptions(Document):
    """A grid and how each of its cells is measured.

    Closed loop: `concurrency` requests are in flight. Open loop, where there are `rate`s: so many requests
    are due a second, `in_flight` at most at once. `min_samples` lets a cell go on to `max_duration_s`
    (None: ten times its duration). `checks` answers of a cell are looked into. `profile` varies an open
    loop's rate: (seconds from the start of the warm-up, factor), straight lines between. `workers`: load from so
    many other hosts; 0: from this one.
    """

    batch: tuple[int, ...] = (1, 8, 32)
    concurrency: tuple[int, ...] = (1, 4, 16)
    rate: tuple[float, ...] = ()
    arrivals: Literal["constant", "poisson"] = "poisson"
    in_flight: int = Field(default=256, ge=1, le=MOST_CLIENTS)
    profile: tuple[tuple[float, float], ...] = ()
    duration_s: float = Field(default=20.0, gt=0, le=7 * 86400)
    max_duration_s: float | None = Field(default=None, gt=0, le=7 * 86400)
    min_samples: int = Field(default=0, ge=0, le=10_000_000)
    warmup_s: float = Field(default=3.0, ge=0, le=86400)
    timeout_s: float = Field(default=60.0, gt=0, le=3600)
    processes: int = Field(default=1, ge=1, le=64)
    workers: int = Field(default=0, ge=0, le=256)
    calibration: bool = True
    checks: int = Field(default=8, ge=0, le=1000)
    corpus: Path | None = None
    text_tokens: str | None = None
    encoding: Literal["float", "base64"] = "float"
    seed: int = 1
    scenario: str | None = None

    @field_validator("batch", "concurrency")
    @classmethod
    def _is_grid_side(cls, values: tuple[int, ...], info: Any) -> tuple[int, ...]:
        most = MOST_BATCH if info.field_name == "batch" else MOST_CLIENTS
        if not values or not all(1 <= value <= most for value in values):
            raise ValueError(f"expected whole numbers from 1 to {most}")
        return tuple(dict.fromkeys(values))

    @field_validator("rate")
    @classmethod
    def _is_rate(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 < value <= MOST_RATE for value in values):
            raise ValueError(f"expected requests a second above 0, up to {MOST_RATE:,}")
        return tuple(dict.fromkeys(values))

    @property
    def cells(self) -> list[Point]:
        """Every cell, in the order in which they are measured."""
        if self.rate:
            return [Point(batch, self.in_flight, rate) for batch in self.batch for rate in self.rate]
        return [Point(batch, clients) for batch in self.batch for clients in self.concurrency]

    @property
    def longest_window_s(self) -> float:
        """How long a cell may go on for its samples."""
        if not self.min_samples:
            return self.duration_s
        return max(self.duration_s, self.max_duration_s or LONGER * self.duration_s)

    def request(self) -> dict[str, Any]:
        """As a record's `request`: plain values."""
        document = self.model_dump(mode="json")
        document["corpus"] = str(self.corpus.absolute()) if self.corpus else "built in"
        return document


class Scenario(LoadOptions):
    """A scenario's file: any of the options, and what it stands for."""

    description: str


def scenario_values(name: str) -> dict[str, Any]:
    """What a scenario sets, by option. UnknownName, InvalidFile."""
    found = documents.load(scenarios.file_of(name), Scenario)
    given = {field: getattr(found, field) for field in found.model_fields_set}
    given.pop("description")
    return given | {"scenario": name}


def options_from(values: Mapping[str, Any]) -> LoadOptions:
    """Options from named values; BadInput names every one that cannot be."""
    try:
        return LoadOptions.model_validate(dict(values))
    except ValidationError as error:
        problems = [
            f"{problem['loc'][0]}: {problem['msg']} (given: {problem['input']!r})"
            for problem in error.errors()
        ]
        raise BadInput(
            "the load cannot be as asked", details=problems, hint="see `deploytool load --help`"
        ) from error


def resume_options(record: RunRecord, given: Mapping[str, Any]) -> LoadOptions:
    """The options of a run that goes on. What is given again must be as it was; BadInput says what is not."""
    stored = dict(record.request)
    corpus = stored.get("corpus")
    stored["corpus"] = None if corpus == "built in" else corpus
    kept = {name: stored[name] for name in LoadOptions.model_fields if name in stored}
    before = options_from(kept)
    asked = options_from({**kept, **given})
    was, now = before.request(), asked.request()
    unlike = [f"{name}: it was {was[name]}, now {now[name]}" for name in was if was[name] != now[name]]
    if unlike:
        raise BadInput(
            f"run {record.id} measured other work",
            details=unlike,
            hint="leave these options out, or start a new run",
        )
    return asked


class Progress(Protocol):
    """Is told how a run goes. Its methods are called from the run's own thread and must not raise."""

    def note(self, line: str) -> None: ...

    def begins(self, record: RunRecord, cells: int) -> None: ...

    def cell(self, number: int, name: str) -> None: ...

    def live(self, live: Live) -> None: ...

    def done(self, cell: Cell) -> None: ...
