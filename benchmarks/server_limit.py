"""The offline limit of a backend in a process of its own, measured again whenever it is asked for."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

from server_process import HERE


@dataclass(frozen=True)
class Limit:
    """Of one backend. `process`: it waits to be asked; without one the answers are those of before."""

    process: subprocess.Popen[str] | None
    kept: dict[str, Any]

    def pass_s(self) -> float:
        """Seconds for a text of the whole list."""
        found = self._ask("all")
        seconds: float = found["seconds"] / found["texts"]
        return seconds

    def one_ms(self) -> list[float]:
        """Milliseconds of some texts, each alone."""
        found: list[float] = self._ask("one")["one_ms"]
        return found

    def words(self) -> str:
        found, one_ms = self.kept["all"], median(self.kept["one"]["one_ms"])
        rate = found["texts"] / found["seconds"]
        return f"{rate:.0f} texts/s (batches of {found['batch']}), one text {one_ms:.1f} ms"

    def _ask(self, what: str) -> Any:
        return self.kept[what] if self.process is None else _answer(self.process, what)


@contextmanager
def limit(argv: Sequence[str], texts: Sequence[str], *, stays: bool) -> Iterator[Limit]:
    """Of `server_offline.py ARGV`. `stays`: the process is there to be asked until the context ends."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / "server_offline.py"), *argv],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        kept = {"all": _answer(process, json.dumps(texts), "all"), "one": _answer(process, "one")}
        if not stays:
            _end(process)
        yield Limit(process if stays else None, kept)
    finally:
        _end(process)


def _answer(process: subprocess.Popen[str], *lines: str) -> Any:
    assert process.stdin is not None  # noqa: S101 - both are pipes
    assert process.stdout is not None  # noqa: S101
    process.stdin.write("".join(f"{line}\n" for line in lines))
    process.stdin.flush()
    answer = process.stdout.readline()
    if not answer:
        raise SystemExit(f"the offline limit ended with {process.wait(10)}")
    return json.loads(answer)


def _end(process: subprocess.Popen[str]) -> None:
    """Its input ends, and so does it."""
    if process.stdin is not None and not process.stdin.closed:
        process.stdin.close()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
