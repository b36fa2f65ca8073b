"""Whom a bake-off tells how it goes: the watchers of the use cases that it calls, from one place."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from deploytool.benchmark import LoadOptions
from deploytool.benchmark import Progress as LoadProgress
from deploytool.evaluation import Progress as EvalProgress
from deploytool.sizing import Probe


class Progress(Protocol):
    """Methods are called from the bake-off's own thread."""

    def note(self, line: str) -> None: ...

    @property
    def tick(self) -> Callable[[str], None] | None: ...

    def loading(self, options: LoadOptions) -> AbstractContextManager[LoadProgress]: ...

    def searching(self) -> tuple[LoadProgress, Callable[[Probe], None]]: ...

    def evaluating(self) -> AbstractContextManager[EvalProgress]: ...
