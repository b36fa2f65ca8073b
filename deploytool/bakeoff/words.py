"""How fast and how large a word-matching baseline is: measured in a process that does nothing else."""

from __future__ import annotations

import subprocess
import sys

from pydantic import ValidationError

from deploytool.errors import Unhealthy
from deploytool.retrieval.word_process import GUESSED
from deploytool.schema import Record

PROGRAM = "deploytool.retrieval.word_process"
LONGEST_S = 3600.0


class WordSearch(Record):
    """Searches one by one in a warm process; `p99_ms` None: too few queries."""

    n_queries: int
    n_docs: int
    p50_ms: float
    p99_ms: float | None
    build_s: float
    index_bytes: int
    rss_mib: float


def measure_words(method: str, dataset: str, split: str, language: str | None) -> WordSearch:
    """Start the process and read what it found. Unhealthy with its last words where it ended early."""
    command = [sys.executable, "-m", PROGRAM, method, dataset, split, language or GUESSED]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LONGEST_S)
    try:
        return WordSearch.model_validate_json(done.stdout)
    except ValidationError as error:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise Unhealthy(f"the search with {method} ended early: {last}") from error
