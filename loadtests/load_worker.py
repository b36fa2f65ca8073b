"""A worker of a load over several hosts: its cell comes by message, and everything that it measures goes so.

Its times are of its own clock. How far that is from the master's is measured before the load and after it,
from the quickest of many messages there and back, as NTP does.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import gevent
import gevent.event
import load_cell
from load_state import LOAD, Shared
from load_wire import ForgedError, Session, greeting, is_same, nonce

ASK_S = 1.0
JOIN_S = 20.0  # to hear of a master that knows the token
PINGS = 24
PING_S = 0.5  # for one answer
SLOTS_S = 0.05
QUIT_S = 20.0  # after the end, for the master's leave
NO_MASTER, FORGED = 75, 77  # exit codes (EX_TEMPFAIL, EX_NOPERM): begin anew; the tokens differ


class Clock:
    """How far the master's clock is from this one."""

    def __init__(self) -> None:
        self.is_set = False
        self.offset_ns = 0
        self.uncertain_ns = 0
        self.moved_ns = 0

    def take(self, trips: list[tuple[int, int, int]]) -> None:
        """Trips as (sent here, answered there, received here). The second time says how it moved."""
        sent, there, received = min(trips, key=lambda trip: trip[2] - trip[0])
        offset, uncertain = there - (sent + received) // 2, (received - sent) // 2
        if self.is_set:
            apart = abs(offset - self.offset_ns)
            self.moved_ns = max(0, apart - uncertain - self.uncertain_ns)
        else:
            self.offset_ns, self.uncertain_ns, self.is_set = offset, uncertain, True


class Sender:
    """In the place of the file of samples."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    def write(self, text: str) -> None:
        self.worker.send("samples", text.encode("ascii"))

    def flush(self) -> None:
        """A message leaves at once."""


class Worker:
    """This process as a worker of `environment.runner`'s master."""

    def __init__(self, environment: Any, own: dict[str, Any], token: bytes) -> None:
        self.environment, self.runner, self.own, self.token = environment, environment.runner, own, token
        LOAD.remote = self
        self.nonce = nonce()
        self.session: Session | None = None
        self.clock = Clock()
        self.trips: list[tuple[int, int, int]] = []
        self.answered = gevent.event.Event()
        self.has_cell = gevent.event.Event()
        self.is_ready = gevent.event.Event()
        for kind, what in (("cell", self.on_cell), ("clock", self.on_clock), ("header", self.on_header)):
            self.runner.register_message(kind, self._opened(kind, what))
        self.runner.register_message("hello", self.on_hello)
        environment.events.spawning_complete.add_listener(lambda **_: gevent.spawn(self.begin))
        gevent.spawn(self.join)

    def _opened(self, kind: str, what: Any) -> Any:
        def on_message(environment: Any, msg: Any, **_: Any) -> None:  # noqa: ARG001 - Locust's signature
            if self.session is None:
                return
            try:
                body = self.session.open(kind, msg.data)
            except ForgedError as error:
                sys.stderr.write(f"refused from the master: {error}\n")
                return
            what(body)

        return on_message

    def send(self, kind: str, body: bytes) -> None:
        if self.session is not None:
            self.runner.send_message(kind, self.session.seal(kind, body))

    def tell(self, kind: str, document: Any) -> None:
        self.send(kind, json.dumps(document).encode())

    def join(self) -> None:
        """Ask until the cell is there."""
        until = time.monotonic() + JOIN_S
        while not self.has_cell.is_set():
            if self.session is None:
                self.runner.send_message("join", {"nonce": self.nonce, "name": self.own["name"]})
            else:
                self.tell("want", None)
            self.has_cell.wait(ASK_S)
            if time.monotonic() > until and not self.has_cell.is_set():
                self.leave(NO_MASTER, "the master gave no work")

    def leave(self, code: int, why: str) -> None:
        sys.stderr.write(f"{why}\n")
        sys.stderr.flush()
        os._exit(code)

    def on_hello(self, environment: Any, msg: Any, **_: Any) -> None:  # noqa: ARG002 - Locust's signature
        if self.session is not None or not isinstance(msg.data, dict):
            return
        theirs = str(msg.data.get("nonce", ""))
        if not is_same(msg.data.get("mac"), greeting(self.token, self.nonce, theirs)):
            self.leave(FORGED, "the master has another token than this worker")
        self.session = Session(self.token, self.nonce, theirs, is_master=False)
        self.tell("want", None)

    def on_cell(self, body: bytes) -> None:
        if self.has_cell.is_set():
            return
        first, _, bodies = body.partition(b"\n")
        cell = json.loads(first)
        cell["null_url"] = self.own["null_url"] if cell["calibrated"] else ""
        cell["path"] = self.own["path"]
        load_cell.use_remote_cell(cell, bodies, Sender(self))
        LOAD.aim(self.own["host"])
        signal.alarm(max(1, int(cell["hard_end_s"])))
        self.has_cell.set()

    def on_clock(self, body: bytes) -> None:
        sent, there = json.loads(body)
        self.trips.append((sent, there, time.monotonic_ns()))
        self.answered.set()

    def set_clock(self) -> None:
        self.trips = []
        for _ in range(PINGS):
            self.answered.clear()
            self.tell("clock", [time.monotonic_ns()])
            self.answered.wait(PING_S)
        if self.trips:
            self.clock.take(self.trips)

    def on_header(self, body: bytes) -> None:
        """Times of the master, in this process's clock."""
        for word, value in enumerate(json.loads(body)):
            LOAD.shared.cells[word] = value - self.clock.offset_ns if value else 0

    def begin(self) -> None:
        """All clients are there; the load begins when the master says so."""
        if self.is_ready.is_set():
            return
        self.is_ready.set()
        self.has_cell.wait()
        self.set_clock()
        if not self.clock.is_set:
            self.leave(NO_MASTER, "the master did not answer about its clock")
        gevent.spawn(self.keep_told)
        load_cell.begin(self.environment)

    def keep_told(self) -> None:
        """Tell the master how far this worker is."""
        shared, before = LOAD.shared, None
        while True:
            first = shared.slot
            slots = [int(value) for value in shared.cells[first : first + Shared.DUE + 1]]
            if 0 < slots[Shared.DUE] < 1 << 62:
                slots[Shared.DUE] += self.clock.offset_ns
            now = {
                "slots": slots,
                "closed": bool(shared.cells[Shared.CLOSED]),
                "offset_ns": self.clock.offset_ns,
            }
            if now != before:
                before = now
                self.tell("slots", now)
            gevent.sleep(SLOTS_S)

    def report(self, document: dict[str, Any]) -> None:
        if document["state"] == "finished":
            self.set_clock()
        clock = {
            "offset_ms": self.clock.offset_ns / 1e6,
            "uncertain_ms": self.clock.uncertain_ns / 1e6,
            "moved_ms": self.clock.moved_ns / 1e6,
        }
        self.tell("report", document | {"clock": clock})

    def end(self) -> None:
        """All was sent: go when the master says so, or after a while without it."""
        Path(self.own["outcome"]).write_text(json.dumps({"last": LOAD.cell["last"]}), encoding="utf-8")
        gevent.sleep(QUIT_S)
        os._exit(0)
