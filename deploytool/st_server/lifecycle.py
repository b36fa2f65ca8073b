"""From a listening socket to the exit code: uvicorn, the loading thread, signals, the bounded stop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn

from deploytool.st_server import app, door
from deploytool.st_server.board import Board
from deploytool.st_server.config import Config
from deploytool.st_server.errors import DeviceLost, LoadFailed, StartError
from deploytool.st_server.handover import READY, STOPPING, Link
from deploytool.st_server.metrics import Metrics
from deploytool.st_server.service import Service
from deploytool.st_server.shares import Place
from deploytool.st_server.stages import say, say_fatal

KEEP_ALIVE_S = 75
DEVICE_LOST_EXIT = 6
POLL_S = 0.02
PUBLISH_S = 0.5


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: a stop here first finishes what is inside.

    With a `link` there is no listener: connections come through it, each with a protocol as uvicorn's own.
    """

    link: Link | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.link is not None:
            self.link.open(_counted(self, self.link))

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _counted(server: _Server, link: Link) -> Callable[[], asyncio.Protocol]:
    """Makes uvicorn's protocol, which tells the link when its connection has ended."""
    base: Any = server.config.http_protocol_class

    class Counted(base):  # type: ignore[misc]
        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            link.closed()

    return lambda: Counted(
        config=server.config, server_state=server.server_state, app_state=server.lifespan.state
    )


async def serve(config: Config, where: socket.socket | Place) -> int:
    """Serve until told to stop or failed, on a listener or as a worker; returns the exit code."""
    lifecycle = _Lifecycle(config)
    if isinstance(where, Place):
        lifecycle.join(where)
        return await lifecycle.run(None)
    host, port = where.getsockname()[:2]
    say(f"stage: listening on http://{f'[{host}]' if ':' in host else host}:{port}")
    return await lifecycle.run(where)


class _Lifecycle:
    def __init__(self, config: Config) -> None:
        self.config = config
        self.loop = asyncio.get_running_loop()
        self.service = Service(config, Metrics(), self._lost_from_lane)
        self.exit_code = 0
        self.stopping: asyncio.Task[None] | None = None
        self.link: Link | None = None
        self.publishing: asyncio.Task[None] | None = None
        self.server = _Server(
            uvicorn.Config(
                app.build(self.service),
                http=door.protocol(self.service),
                access_log=False,
                log_config=None,
                lifespan="off",
                ws="none",
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=2,
            )
        )

    def join(self, place: Place) -> None:
        """Become one of several workers."""
        control = socket.socket(fileno=place.control)
        self.server.link = self.link = Link(control, self._orphaned)
        self.service.metrics.join(Board(place.board), place.index, place.starts)
        self.publishing = asyncio.ensure_future(self._publish())

    async def run(self, listener: socket.socket | None) -> int:
        for number in (signal.SIGTERM, signal.SIGINT):
            self.loop.add_signal_handler(number, self._on_signal, number)
        threading.Thread(target=self._load, name="load", daemon=True).start()
        await self.server.serve(sockets=[] if listener is None else [listener])
        if not self.service.finish():
            say("note: a forward was still running")
        say("stage: stopped")
        return self.exit_code

    def _load(self) -> None:
        try:
            self.service.load()
            with contextlib.suppress(RuntimeError):
                self.loop.call_soon_threadsafe(self._tell, READY)
        except StartError as error:
            self._from_thread(error)
        except Exception as error:  # a backend's surprise must not leave a server that is never ready
            self._from_thread(LoadFailed(f"loading failed: {type(error).__name__}: {error}"))

    def _tell(self, word: bytes) -> None:
        if self.link is not None and (word != READY or self.service.state == "ready"):
            self.service.metrics.publish()
            self.link.say(word)

    async def _publish(self) -> None:
        while True:
            self.service.metrics.publish()
            await asyncio.sleep(PUBLISH_S)

    def _orphaned(self) -> None:
        """The parent was killed: nobody hands connections over, and nobody could stop this worker."""
        say("note: the parent has ended")
        self.service.abort()
        self._begin_stop(grace_s=0.0)

    def _from_thread(self, error: StartError) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended: the server was stopped meanwhile
            self.loop.call_soon_threadsafe(self._fail, error, error.exit_code)

    def _lost_from_lane(self, error: DeviceLost) -> None:
        fatal = StartError(
            f"the device failed: {error}", hint="start the server again; look at the driver's log"
        )
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._fail, fatal, DEVICE_LOST_EXIT)

    def _fail(self, error: StartError, exit_code: int) -> None:
        if self.service.state == "stopping":
            return
        self.service.state = "failed"
        self.exit_code = exit_code
        say_fatal(error)
        self._begin_stop(grace_s=1.0)

    def _on_signal(self, number: int) -> None:
        if self.stopping is not None and self.link is not None:
            return  # the group's signal and the parent's; the parent kills what does not end
        if self.stopping is not None:
            say("note: told to stop twice: stopping now")
            self.service.abort()
            self.server.should_exit = True
            return
        say(f"stage: stopping ({signal.Signals(number).name})")
        self._begin_stop(self.config.grace_s)

    def _begin_stop(self, grace_s: float) -> None:
        self.service.begin_stop()
        self._tell(STOPPING)
        if self.stopping is None:
            self.stopping = asyncio.ensure_future(self._stop(grace_s))

    async def _stop(self, grace_s: float) -> None:
        """Finish what is inside, within the grace; the listener stays open, so that /ready can say 503."""
        deadline = time.monotonic() + grace_s
        while not self.service.idle and time.monotonic() < deadline:
            await asyncio.sleep(POLL_S)
        if not self.service.idle:
            say(f"note: {self.service.active} requests were not finished within {grace_s:g} s")
            self.service.abort()
            await asyncio.sleep(POLL_S)
        self.server.should_exit = True
