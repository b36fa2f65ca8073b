"""The reference server in C: compiled once per test process, started on any port, read back."""

from __future__ import annotations

import functools
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).resolve().parent / "reference_server.c"


@functools.cache
def compiled() -> Path | None:
    """The program; None where there is no C compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return None
    out = Path(tempfile.mkdtemp(prefix="reference-server-")) / "reference_server"
    subprocess.run([compiler, "-O2", "-o", str(out), str(SOURCE)], check=True)
    return out


@dataclass(frozen=True)
class ReferenceC:
    """A running server. Its record is whole once it has ended."""

    url: str
    process: subprocess.Popen[str]
    record: Path

    def end(self) -> list[tuple[int, int]]:
        """End it; (received, answered) of every request, in ns of CLOCK_MONOTONIC."""
        self.process.terminate()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        lines = [line.split(",") for line in self.record.read_text().splitlines()]
        return [(int(received), int(answered)) for received, answered in lines]


def start(record: Path, vectors: int = 1, dimensions: int = 8, script: str = "") -> ReferenceC:
    program = compiled()
    if program is None:
        raise RuntimeError("no C compiler")
    process = subprocess.Popen(
        [str(program), str(vectors), str(dimensions), script, str(record)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return ReferenceC(process.stdout.readline().strip(), process, record)
