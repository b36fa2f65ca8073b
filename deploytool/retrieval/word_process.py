"""A word-matching baseline as a process of its own: how long a search takes, and what it holds in memory.

`python -m deploytool.retrieval.word_process METHOD SET SPLIT LANGUAGE` ("-": guessed) prints one JSON document,
`{"n_queries", "n_docs", "p50_ms", "p99_ms", "build_s", "index_bytes", "rss_mib"}`; p99_ms is null with too few
queries. It imports as little as it can: its memory is what is measured.
"""

from __future__ import annotations

import json
import sys
import time

import psutil

from deploytool.errors import DeploytoolError
from deploytool.retrieval.lexical import word_index, words_for
from deploytool.retrieval.sets import open_dataset
from deploytool.statistics import percentile, samples_needed

FOUND = 10  # documents that a search gives
MIB = 1024 * 1024
GUESSED = "-"


def searched(method: str, dataset: str, split: str, language: str | None) -> dict[str, float | None]:
    """Searches one by one in a warm process."""
    task = open_dataset(dataset, split)
    words = words_for(list(task.documents.values()), language)
    started = time.perf_counter()
    index = word_index(method, task.documents, words)
    build_s = time.perf_counter() - started
    queries = list(task.queries.values())
    index.search(queries[:1], FOUND)
    taken = []
    for query in queries:
        began = time.perf_counter()
        index.search([query], FOUND)
        taken.append((time.perf_counter() - began) * 1000)
    taken.sort()
    return {
        "n_queries": len(queries),
        "n_docs": len(task.documents),
        "p50_ms": percentile(taken, 50),
        "p99_ms": percentile(taken, 99) if len(taken) >= samples_needed(99) else None,
        "build_s": build_s,
        "index_bytes": index.size_bytes,
        "rss_mib": psutil.Process().memory_info().rss / MIB,
    }


def main(arguments: list[str]) -> int:
    method, dataset, split, language = arguments
    try:
        found = searched(method, dataset, split, None if language == GUESSED else language)
    except DeploytoolError as error:
        sys.stderr.write(f"{error.message}\n")
        return error.exit_code
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
