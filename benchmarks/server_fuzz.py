"""Mutated requests against a server of its own: `make fuzz-server COUNT=20000`.

Fails (exit code 1) on an answer of 500 and above, on a request without an answer in a minute, and where the
server has ended. The same seed sends the same requests.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import server_process
from server_process import MODEL, ROOT, Card
from server_texts import packaged

sys.path.insert(0, str(ROOT / "tests"))

from mutated_requests import Mutated, mutated, send

CLIENTS = 8
EVERY = 2000


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--model", help="a folder, of a reranker too (default: the packaged all-MiniLM-L6-v2)"
    )
    given = parser.parse_args()
    argv = [sys.executable, "-m", "deploytool.st_server", "--model", given.model or packaged()]
    argv += ["--served-model-name", MODEL, "--device", "cpu", "--port", "{port}", "--max-body-mib", "1"]
    chance = random.Random(given.seed)  # noqa: S311 - a load
    found: Counter[str] = Counter()
    with server_process.running(argv, Card()) as server, ThreadPoolExecutor(CLIENTS) as pool:
        before, began = server.rss_mib(), time.perf_counter()
        for first in range(0, given.count, EVERY):
            batch = [mutated(chance, MODEL) for _ in range(min(EVERY, given.count - first))]
            found.update(pool.map(lambda request: _status(server.port, request), batch))
            print(f"{first + len(batch)} sent: {dict(sorted(found.items()))}", flush=True)
            if server.process.poll() is not None:
                found["ended"] += 1
                break
        alive = server_process.ready(server.port)
        seconds = time.perf_counter() - began
        print(f"{seconds:.0f} s, memory {before:.0f} -> {server.rss_mib():.0f} MiB, ready after it: {alive}")
    bad = sum(count for status, count in found.items() if status[0] == "5" or status in ("hang", "ended"))
    print(f"seed {given.seed}: {bad} bad of {sum(found.values())}")
    return 1 if bad or not alive else 0


def _status(port: int, request: Mutated) -> str:
    """The status; "closed", or "hang", which counts as bad."""
    try:
        status = send(port, request)
    except TimeoutError:
        print(f"no answer: {request.wire[:300]!r}", flush=True)
        return "hang"
    if status is not None and status >= 500:
        print(f"{status}: {request.wire[:600]!r}", flush=True)
    return "closed" if status is None else str(status)


if __name__ == "__main__":
    sys.exit(main())
