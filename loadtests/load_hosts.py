"""The workers of a load over several hosts as their master sees them."""

from __future__ import annotations

from typing import IO, Any

from load_state import Shared
from load_wire import Session

NEUTRAL = {Shared.READY: 1, Shared.PENDING: 0, Shared.DUE: 1 << 62}  # what a lost worker holds back: nothing


class Worker:
    """One worker as its master sees it."""

    def __init__(self, client_id: str, name: str, session: Session, worker_nonce: str, hello: dict[str, Any]):
        self.client_id, self.name, self.session = client_id, name, session
        self.nonce, self.hello = worker_nonce, hello
        self.rank = -1
        self.offset_ns = 0  # master's clock - worker's clock
        self.closed = False  # whether it knows that the window is over
        self.finished = False
        self.lost: str | None = None
        self.answers = 0
        self.samples: IO[str] | None = None
        self.document: dict[str, Any] = {}


class SpreadShared(Shared):
    """What the workers said of themselves, one slot each, as the processes of one machine share a file."""

    def __init__(self, processes: int) -> None:
        super().__init__(None, 0, processes)
        self.workers: dict[int, Worker] = {}

    def all(self, what: int) -> list[int]:
        found = super().all(what)
        for rank, worker in self.workers.items():
            if worker.lost and what in NEUTRAL:
                found[rank] = NEUTRAL[what]
            elif what == Shared.PENDING and not worker.closed:
                found[rank] = max(1, found[rank])  # it may yet begin a request that counts
            elif what == Shared.DUE and not worker.closed:
                found[rank] = 0
        return found

    def take(self, rank: int, values: list[int]) -> None:
        first = self.WIDTH * (1 + rank)
        for place, value in enumerate(values):
            self.cells[first + place] = value
