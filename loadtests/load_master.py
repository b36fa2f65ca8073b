"""The master of a load over several hosts: leads the parts of a cell, and writes down what workers send.

Samples arrive as lines, whole, and are written with their times in the master's clock: they are merged, never
percentiles. A worker that is not heard any more is lost: what it had sent stays, and it is named.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import load_cell
from load_hosts import SpreadShared, Worker
from load_state import HEADER, LOAD, Shared, whole_or_nothing
from load_wire import ForgedError, Session, greeting, nonce

TELL_S = 0.005
WATCH_S = 0.25
REPORT_S = 0.5
END_S = 15.0  # for a worker's last samples and answers, once the load is over
HEADER_WORDS = range(Shared.ALONE, Shared.STOP + 1)


class Master:
    """Reads what workers send, answers, and ends the cell when all is there."""

    def __init__(self, environment: Any, cell: dict[str, Any], token: bytes) -> None:
        self.environment, self.runner = environment, environment.runner
        self.cell, self.token = cell, token
        self.bodies = Path(cell["bodies"]).read_bytes()
        self.shared = SpreadShared(cell["processes"])
        LOAD.cell, LOAD.shared, LOAD.timeout_s = cell, self.shared, cell["timeout_s"]
        if not cell["rate"]:
            for rank in range(cell["processes"]):
                self.shared.cells[Shared.WIDTH * (1 + rank) + Shared.DUE] = 1 << 62
        self.workers: dict[str, Worker] = {}
        self.told: list[int] = []
        self.runner.register_message("join", self.on_join)
        kinds: dict[str, Callable[[Worker, bytes], None]] = {
            "want": self.on_want, "clock": self.on_clock, "slots": self.on_slots, "samples": self.on_samples,
            "kept": self.on_kept, "report": self.on_report,
        }  # fmt: skip
        for kind, what in kinds.items():
            self.runner.register_message(kind, self._opened(kind, what))
        environment.events.spawning_complete.add_listener(lambda **_: self.lead())
        gevent.spawn(self.watch)

    def _opened(self, kind: str, what: Callable[[Worker, bytes], None]) -> Callable[..., None]:
        def on_message(environment: Any, msg: Any, **_: Any) -> None:  # noqa: ARG001 - Locust's signature
            worker = self.workers.get(msg.node_id)
            if worker is None:
                return
            try:
                body = worker.session.open(kind, msg.data)
            except ForgedError as error:
                sys.stderr.write(f"refused from {worker.name}: {error}\n")
                return
            what(worker, body)

        return on_message

    def send(self, worker: Worker, kind: str, document: Any) -> None:
        sealed = worker.session.seal(kind, json.dumps(document).encode())
        self.runner.send_message(kind, sealed, client_id=worker.client_id)

    def on_join(self, environment: Any, msg: Any, **_: Any) -> None:  # noqa: ARG002 - Locust's signature
        """A worker is there. It may have asked before: the session is the same then."""
        data = msg.data if isinstance(msg.data, dict) else {}
        theirs, name = str(data.get("nonce", ""))[:64], str(data.get("name", ""))[:100]
        worker = self.workers.get(msg.node_id)
        if worker is None or worker.nonce != theirs:
            own = nonce()
            hello = {"nonce": own, "mac": greeting(self.token, theirs, own)}
            session = Session(self.token, theirs, own, is_master=True)
            worker = self.workers[msg.node_id] = Worker(msg.node_id, name, session, theirs, hello)
        self.runner.send_message("hello", worker.hello, client_id=worker.client_id)

    def on_want(self, worker: Worker, body: bytes) -> None:  # noqa: ARG002 - the message is all it says
        """A worker that knows the token wants its work: its rank is the next one."""
        if worker.rank < 0:
            if len(self.shared.workers) >= self.cell["processes"]:
                return
            worker.rank = len(self.shared.workers)
            self.shared.workers[worker.rank] = worker
            self._open_samples(worker)
        sealed = worker.session.seal(
            "cell", json.dumps(self._document(worker)).encode() + b"\n" + self.bodies
        )
        self.runner.send_message("cell", sealed, client_id=worker.client_id)

    def _document(self, worker: Worker) -> dict[str, Any]:
        private = {"bodies", "samples", "progress", "answers", "shared", "host", "path", "null_url"}
        kept = {name: value for name, value in self.cell.items() if name not in private}
        return kept | {"rank": worker.rank, "calibrated": bool(self.cell["null_url"])}

    def _open_samples(self, worker: Worker) -> None:
        path = Path(self.cell["folder"]) / f"samples-{worker.rank}.csv"
        worker.samples = path.open("w", encoding="ascii")
        worker.samples.write(HEADER)

    def on_clock(self, worker: Worker, body: bytes) -> None:
        """Answered at once: the worker learns how far its clock is from this one."""
        self.send(worker, "clock", [*json.loads(body), time.monotonic_ns()])

    def on_slots(self, worker: Worker, body: bytes) -> None:
        document = json.loads(body)
        worker.offset_ns = document["offset_ns"]
        self.shared.take(worker.rank, document["slots"])
        worker.closed = document["closed"]

    def on_samples(self, worker: Worker, body: bytes) -> None:
        """Lines of samples, their first column moved to this clock."""
        if worker.samples is None:
            return
        moved = []
        for line in body.decode("ascii").splitlines():
            start, _, rest = line.partition(",")
            moved.append(f"{int(start) + worker.offset_ns},{rest}\n")
        with whole_or_nothing():
            worker.samples.write("".join(moved))
            worker.samples.flush()

    def on_kept(self, worker: Worker, body: bytes) -> None:
        path = Path(self.cell["answers"]) / f"{worker.rank}-{worker.answers}"
        worker.answers += 1
        with whole_or_nothing():
            path.write_bytes(body)

    def on_report(self, worker: Worker, body: bytes) -> None:
        worker.document = json.loads(body)
        worker.finished = worker.document["state"] == "finished"

    def lead(self) -> None:
        if not self.told:
            self.told = [0] * (Shared.STOP + 1)
            gevent.spawn(self.tell)
            gevent.spawn(load_cell.lead)
            gevent.spawn(self.end)

    def tell(self) -> None:
        """Pass every new time of the header on to the workers."""
        while True:
            now = [self.shared.cells[word] for word in HEADER_WORDS]
            if now != self.told:
                self.told = now
                for worker in self.shared.workers.values():
                    if not worker.lost:
                        self.send(worker, "header", now)
            gevent.sleep(TELL_S)

    def watch(self) -> None:
        """Find workers that are gone, and keep the files of progress."""
        said = 0.0
        while True:
            gevent.sleep(WATCH_S)
            for worker in self.shared.workers.values():
                if not worker.lost and not worker.finished:
                    worker.lost = self._gone(worker)
            if self.shared.workers and all(worker.lost for worker in self.shared.workers.values()):
                self.write()
                self.fail("every worker is gone")
            if time.monotonic() - said >= REPORT_S:
                said = time.monotonic()
                self.write()

    def _gone(self, worker: Worker) -> str | None:
        node = self.runner.clients.get(worker.client_id)
        if node is None:
            return "it ended"
        return "it was not heard for 3 s" if node.state == "missing" else None

    def fail(self, why: str) -> None:
        named = [f"{worker.name}: {worker.lost}" for worker in self.shared.workers.values()]
        sys.stderr.write(f"{why} ({'; '.join(named)})\n")
        sys.stderr.flush()
        os._exit(os.EX_UNAVAILABLE)

    def end(self) -> None:
        """Wait for what workers send last, then for nothing more."""
        while not self.shared.cells[Shared.STOP]:
            gevent.sleep(0.01)
        until = time.monotonic() + load_cell.LAST_ANSWERS_S + END_S
        while any(not (worker.finished or worker.lost) for worker in self.shared.workers.values()):
            gevent.sleep(0.02)
            if time.monotonic() > until:
                for worker in self.shared.workers.values():
                    if not worker.finished:
                        worker.lost = worker.lost or "it did not send its last samples"
        self.write()
        self.environment.process_exit_code = 0
        self.runner.quit()

    def write(self) -> None:
        """Each worker's progress in a file of its own, in this clock."""
        cells = self.shared.cells
        times = {
            "now_ns": time.monotonic_ns(),
            "target_ns": cells[Shared.TARGET],
            "window_start_ns": cells[Shared.WINDOW],
            "window_end_ns": cells[Shared.CLOSED] or cells[Shared.PLANNED],
        }
        for rank, worker in self.shared.workers.items():
            document = load_cell.nothing_yet() | worker.document | times | {"host": worker.name}
            if worker.lost:
                document |= {"state": "lost", "lost": worker.lost}
            path = Path(self.cell["folder"]) / f"progress-{rank}.json"
            partial = path.with_name(path.name + ".part")
            with whole_or_nothing():
                partial.write_text(json.dumps(document), encoding="utf-8")
                partial.replace(path)
