"""The log of a deployment: its end, or all that comes until its server is gone."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import closing

from deploytool.runtimes import runtime
from deploytool.store import Store

POLL_S = 0.1


def log_lines(name: str, store: Store, *, last: int | None, follow: bool) -> Iterator[str]:
    """The last `last` lines (None: all), then, where `follow`, every new one until the server is gone."""
    deployment = store.deployment(name)
    served_by = runtime(deployment.runtime)
    folder = store.folder_of(deployment.id)
    count = sys.maxsize if last is None else last
    with closing(served_by.open_log(deployment, folder, count)) as reader:
        while follow:
            # Asked before reading: what comes between the two is read by `rest`.
            alive = served_by.observe(deployment, folder).alive
            lines = reader.read()
            yield from lines
            if not alive:
                break
            if not lines:
                time.sleep(POLL_S)
        yield from reader.rest()
