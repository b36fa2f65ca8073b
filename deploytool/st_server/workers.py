"""Several workers behind one port: the parent accepts, hands connections over, restarts what dies, stops all.

Each worker is this program again, with its share of the processors (or a card) and a socket to the parent
(handover.py). The parent loads no model. A connection goes to the ready worker with the fewest; at the start,
to one that still loads, so that /ready is 503 until all are ready. A worker that ends without having been
ready at the first start ends the server with its exit code; one that dies later is started anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from deploytool.st_server import handover, shares
from deploytool.st_server.board import Board
from deploytool.st_server.config import Config
from deploytool.st_server.errors import LoadFailed
from deploytool.st_server.stages import say, say_fatal

TRIES = 3  # starts in a row that may fail before the server gives up
PAUSE_S = 1.0
BEYOND_GRACE_S = 5.0


@dataclass
class Worker:
    """`open`: connections that it holds. `failures`: starts in a row that did not end in ready."""

    index: int
    process: asyncio.subprocess.Process | None = None
    control: socket.socket | None = None
    open: int = 0
    ready: bool = False
    starts: int = 0
    failures: int = 0
    handed: float = 0.0  # when it last got one


def supervise(config: Config, argv: Sequence[str], listener: socket.socket) -> int:
    """Serve with `config.workers` processes until told to stop; returns the exit code."""
    with asyncio.Runner() as runner:
        return runner.run(_Parent(config, argv, listener).run())


class _Parent:
    def __init__(self, config: Config, argv: Sequence[str], listener: socket.socket) -> None:
        self.config = config
        self.argv = argv
        self.listener = listener
        self.board = Board.make(config.workers)
        self.workers = [Worker(index) for index in range(config.workers)]
        self.stopping = False
        self.all_ready = False
        self.exit_code = 0

    async def run(self) -> int:
        host, port = self.listener.getsockname()[:2]
        say(f"stage: listening on http://{f'[{host}]' if ':' in host else host}:{port}")
        say(f"stage: loading in {len(self.workers)} workers")
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        self.listener.setblocking(False)
        accepting = asyncio.ensure_future(self._accept())
        try:
            await asyncio.gather(*(self._keep(worker) for worker in self.workers))
        finally:
            accepting.cancel()
            self.board.close()
        say("stage: stopped")
        return self.exit_code

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self.listener)
            except OSError:  # out of descriptors, or a client that is gone already
                await asyncio.sleep(0.05)
                continue
            with connection:
                self._hand_over(connection)

    def _hand_over(self, connection: socket.socket) -> None:
        """To the worker whose turn it is; where none takes it, the client sees it closed."""
        for worker in sorted(self.workers, key=self._turn):
            if worker.control is None:
                continue
            try:
                socket.send_fds(worker.control, [handover.CONNECTION], [connection.fileno()])
            except OSError:  # it is full, or dying
                continue
            worker.open += 1
            worker.handed = time.monotonic()
            return

    def _turn(self, worker: Worker) -> tuple[bool, int, float]:
        first = worker.ready if self.all_ready else not worker.ready
        return (not first, worker.open, worker.handed)

    async def _keep(self, worker: Worker) -> None:
        """Start the worker, and again when it dies; ends with the server."""
        while not self._ending():
            code = await self._once(worker)
            if self._ending():
                return
            if not self.all_ready:
                self._give_up(code)  # it said why
                return
            worker.failures += 1
            say(f"note: worker {worker.index} ended with {code}; starting it again")
            if worker.failures >= TRIES:
                say_fatal(LoadFailed(f"worker {worker.index} ended {TRIES} times before it was ready"))
                self._give_up(code)
                return
            if worker.failures > 1:
                await asyncio.sleep(PAUSE_S)

    async def _once(self, worker: Worker) -> int:
        """One life of a worker; returns its exit code."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        worker.starts += 1
        worker.open = 0
        place = shares.Place(
            worker.index, theirs.fileno(), self.board.descriptors,
            cpus=shares.cpus(self.config, worker.index), starts=worker.starts,
        )  # fmt: skip
        with theirs, shares.key_file(self.config.api_key) as key:
            command = [sys.executable, "-m", "deploytool.st_server", *self.argv]
            command += shares.flags(self.config, key)
            passed = (theirs.fileno(), *self.board.descriptors, *([key] if key is not None else []))
            worker.process = await asyncio.create_subprocess_exec(
                *command,
                env=shares.environment(self.config, place),
                pass_fds=passed,
                stdin=asyncio.subprocess.DEVNULL,
            )
        worker.control = ours
        if self.stopping:
            self._signal(worker, signal.SIGTERM)
        loop = asyncio.get_running_loop()
        loop.add_reader(ours, self._heard, worker, ours)
        code = await worker.process.wait()
        loop.remove_reader(ours)
        ours.close()
        worker.control, worker.process, worker.ready = None, None, False
        self.board.write(worker.index, b"")
        return code

    def _heard(self, worker: Worker, control: socket.socket) -> None:
        try:
            words = control.recv(4096)
        except OSError:
            words = b""
        if not words:
            asyncio.get_running_loop().remove_reader(control)
        worker.open = max(0, worker.open - words.count(handover.CLOSED))
        if handover.READY in words:
            worker.ready, worker.failures = True, 0
        if handover.STOPPING in words:
            worker.ready = False
        if not self.all_ready and all(one.ready for one in self.workers):
            self.all_ready = True
            say("stage: ready")

    def _ending(self) -> bool:
        return self.stopping

    def _give_up(self, code: int) -> None:
        self.exit_code = code if code > 0 else LoadFailed.exit_code
        self._end_all(signal.SIGTERM)

    def _stop(self, number: int) -> None:
        if self.stopping:
            say("note: told to stop twice: stopping now")
            self._end_all(signal.SIGKILL)
        else:
            say(f"stage: stopping ({signal.Signals(number).name})")
            self._end_all(signal.SIGTERM)

    def _end_all(self, number: signal.Signals) -> None:
        if not self.stopping:
            loop = asyncio.get_running_loop()
            loop.call_later(self.config.grace_s + BEYOND_GRACE_S, self._end_all, signal.SIGKILL)
        self.stopping = True
        for worker in self.workers:
            self._signal(worker, number)

    def _signal(self, worker: Worker, number: signal.Signals) -> None:
        if worker.process is not None:
            with contextlib.suppress(ProcessLookupError):
                worker.process.send_signal(number)
