"""A worker's end of the socket to its parent: connections come in, words go out.

The parent sends CONNECTION with a descriptor; the worker sends READY, STOPPING, and CLOSED for each
connection that has ended. The end of the parent is the end of the socket, and of the worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable

CONNECTION, READY, STOPPING, CLOSED = b"c", b"r", b"s", b"d"


class Link:
    """Of one worker. All methods belong to the event loop."""

    def __init__(self, control: socket.socket, on_orphaned: Callable[[], None]) -> None:
        control.setblocking(False)
        self._control = control
        self._on_orphaned = on_orphaned
        self._tasks: set[asyncio.Task[None]] = set()
        self._make: Callable[[], asyncio.Protocol] | None = None

    def open(self, make: Callable[[], asyncio.Protocol]) -> None:
        """Take connections from now on; `make` gives the protocol of each and is told of its end by `closed`."""
        self._make = make
        asyncio.get_running_loop().add_reader(self._control, self._readable)

    def say(self, word: bytes) -> None:
        with contextlib.suppress(OSError):  # the parent is gone: `_readable` sees it too
            self._control.send(word)

    def closed(self) -> None:
        self.say(CLOSED)

    def _readable(self) -> None:
        try:
            word, descriptors, _, _ = socket.recv_fds(self._control, 1, 1)
        except BlockingIOError:
            return
        except OSError:
            word, descriptors = b"", []
        if not word:
            asyncio.get_running_loop().remove_reader(self._control)
            self._on_orphaned()
            return
        for descriptor in descriptors:
            task = asyncio.ensure_future(self._take(socket.socket(fileno=descriptor)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _take(self, connection: socket.socket) -> None:
        assert self._make is not None  # noqa: S101 - `open` came first
        connection.setblocking(False)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._make, connection)
        except OSError:  # the client has left meanwhile
            connection.close()
            self.closed()
