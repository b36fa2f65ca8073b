"""Ports for servers of the tests that nobody else takes between the look and the use.

Below 32768 no system gives a port to a client or to a bind of port 0. Each worker of a run has every eighth of
these, and begins where no other run is likely to be.
"""

from __future__ import annotations

import itertools
import os
import random
import socket

FIRST, LAST, WORKERS = 11_000, 31_000, 8
_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % WORKERS
_mine = range(FIRST + _worker, LAST, WORKERS)
_next = itertools.count(random.SystemRandom().randrange(len(_mine)))


def unused_port() -> int:
    """Another one at each call, until all have been given."""
    for _ in _mine:
        port = _mine[next(_next) % len(_mine)]
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError("no port is free")
