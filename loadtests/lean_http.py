"""A small HTTP/1.1 client for load: one kept-alive connection over gevent's loop.

It keeps what a load test looks at - the status, the first and the last bytes of an answer, its length - and
reads the rest by its length into one buffer of the process, untouched. One watcher stays with a connection
for its life, and one greenlet looks after all deadlines, so that a request costs two system calls and one
switch each way.

Errors are `Broken`, with the class under which a load test counts them.
"""

from __future__ import annotations

import contextlib
import errno
import socket as patched_socket
import ssl
import struct
import sys
import time
import weakref
from typing import Any

import gevent
import gevent.socket
from gevent import monkey
from greenlet import getcurrent
from lean_server import Broken, Server

__all__ = ["Broken", "Connection", "Server", "connect", "keep_deadlines"]

FIRST_BYTES = 4096
LAST_BYTES = 512
HEAD_MOST = 65_536
LOOK_BYTES = 16_384  # of the first bytes read of an answer: the head is in them
BUFFER_BYTES = 1 << 20
DEADLINE_STEP_S = 0.02
READ, WRITE = 1, 2
SOCKET = monkey.get_original("socket", "socket")
STAMPS = 35 if sys.platform == "linux" else None  # SO_TIMESTAMPNS of its socket.h, and SCM_TIMESTAMPNS
STAMP = struct.Struct("@ll")  # struct timespec, of the wall clock
STAMP_ROOM = 64  # a control message with one, in bytes
GOES_ON = (errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EAGAIN)

NOTHING = memoryview(b"")
_buffer = memoryview(bytearray(BUFFER_BYTES))  # read into and looked at without a switch in between
_open: weakref.WeakSet[Connection] = weakref.WeakSet()


class Connection:
    """One connection, opened when it is needed. After `exchange`: `first`, `last`, `length` of the body.

    `keep` set before it: the whole body is in `whole` afterwards.
    """

    def __init__(self, server: Server, timeout_s: float) -> None:
        self.server, self.timeout_s = server, timeout_s
        self.hub = gevent.get_hub()
        self.socket: Any = None
        self.watcher: Any = None
        self.waiter: Any = None
        self.deadline_s = 0.0
        self.expired = False
        self.stale = False
        self.stamp = b""
        self.keep = False
        self.status = self.length = 0
        self.first = self.last = self.whole = b""
        _open.add(self)

    def exchange(self, request: bytes) -> int:
        """Send a request, read its whole answer, return its status. Raises Broken."""
        self.deadline_s = time.monotonic() + self.timeout_s
        self.expired = False
        self.stamp = b""
        try:
            if self.socket is None or self._is_gone():
                self._open_socket()
            self._send(request)
            return self._receive()
        except Broken as broken:
            self.close()
            if self.expired and broken.kind != "timeout":
                raise Broken("timeout") from broken
            raise
        except OSError as error:
            self.close()
            raise Broken("timeout" if self.expired else "reset", str(error)) from error
        except BaseException:
            self.close()
            raise
        finally:
            self.deadline_s = 0.0

    def late_ns(self) -> int | None:
        """How long the last bytes that were read have been on this machine by now; None where that is not known."""
        if len(self.stamp) < STAMP.size:
            return None
        seconds, ns = STAMP.unpack_from(self.stamp)
        came_ns: int = seconds * 1_000_000_000 + ns
        return time.time_ns() - came_ns

    def close(self) -> None:
        if self.watcher is not None:
            self.watcher.stop()
            self.watcher.close()
            self.watcher = None
        if self.socket is not None:
            with contextlib.suppress(OSError):
                self.socket.close()
            self.socket = None

    def expire(self) -> None:
        """End the exchange in progress: whoever waits on the socket wakes and finds it shut."""
        self.expired = True
        if self.socket is not None:
            with contextlib.suppress(OSError):
                self._raw().shutdown(patched_socket.SHUT_RDWR)

    def _raw(self) -> Any:
        return self.socket

    def _is_gone(self) -> bool:
        """Whether the server closed the connection since its last answer, which is no error of a request."""
        if self.stale:
            return True
        try:
            self.socket.recv(1, patched_socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True  # closed, or bytes that nobody asked for

    def _open_socket(self) -> None:
        self.close()
        self.stale = False
        failure = Broken("connect", "no address")
        with gevent.Timeout(max(0.001, self.deadline_s - time.monotonic()), Broken("timeout")):
            for family, kind, protocol, _, address in self.server.addresses():
                try:
                    self._connect(family, kind, protocol, address)
                except OSError as error:
                    self.close()
                    kind_of = "refused" if isinstance(error, ConnectionRefusedError) else "connect"
                    failure = Broken("tls" if isinstance(error, ssl.SSLError) else kind_of, str(error))
                else:
                    return
        raise failure

    def _connect(self, family: int, kind: int, protocol: int, address: Any) -> None:
        self.socket = SOCKET(family, kind, protocol)
        self.socket.setblocking(False)
        self.socket.setsockopt(patched_socket.IPPROTO_TCP, patched_socket.TCP_NODELAY, 1)
        code = self.socket.connect_ex(address)
        if code in GOES_ON:
            self._wait_for(WRITE)
            code = self.socket.getsockopt(patched_socket.SOL_SOCKET, patched_socket.SO_ERROR)
        if code:
            raise OSError(code, errno.errorcode.get(code, "cannot connect"))
        if STAMPS is not None:
            with contextlib.suppress(OSError):
                self.socket.setsockopt(patched_socket.SOL_SOCKET, STAMPS, 1)
        self.watcher = self.hub.loop.io(self.socket.fileno(), READ)
        self.watcher.start(self._readable)

    def _wait_for(self, what: int) -> None:
        watcher = self.hub.loop.io(self.socket.fileno(), what)
        try:
            self.hub.wait(watcher)
        finally:
            watcher.close()

    def _readable(self) -> None:
        waiter = self.waiter
        if waiter is not None:
            waiter.switch()
        else:  # nobody asked: the server closed it, or speaks out of turn
            self.watcher.stop()
            self.stale = True

    def _send(self, request: bytes) -> None:
        """A server that refuses a long body may answer before it is sent: then the answer is what counts."""
        sent = 0
        try:
            sent = self.socket.send(request)
            while sent < len(request):
                try:
                    sent += self.socket.send(memoryview(request)[sent:])
                except BlockingIOError:
                    self._wait_for(WRITE)
        except BlockingIOError:
            self._wait_for(WRITE)
            self._send(request)
        except ConnectionError:
            if self.expired:
                raise

    def _fill(self) -> int:
        """Read what is there into the buffer, waiting for it; 0 at the end of the stream."""
        if not self.watcher.active:
            self.watcher.start(self._readable)
        while True:
            self.waiter = getcurrent()
            try:
                self.hub.switch()
            finally:
                self.waiter = None
            try:
                size: int
                size, notes, _, _ = self.socket.recvmsg_into((_buffer,), STAMP_ROOM)
            except BlockingIOError:
                continue
            self.stamp = notes[0][2] if notes else b""
            return size

    def _receive(self) -> int:
        data, spare = self._head()
        end = data.index(b"\r\n\r\n") + 4
        fields = data[:end].lower()
        at = fields.find(b"\r\ncontent-length:")
        is_last = b"\r\nconnection: close" in fields or fields.startswith(b"http/1.0")
        body = data[end:]
        if self.status in (204, 304):
            self._take(body, spare, 0)
        elif b"\r\ntransfer-encoding:" in fields:
            self._chunked(bytearray(body + spare))
        elif at >= 0:
            try:
                length = int(fields[at + 17 : fields.index(b"\r\n", at + 2)])
            except ValueError:
                raise Broken("bad_body", "no number in Content-Length") from None
            self._take(body, spare, length)
        else:
            self._until_closed(body + spare)
            is_last = True
        if is_last:
            self.close()
        return self.status

    def _head(self) -> tuple[bytes, memoryview]:
        """The head with what follows it, and what of the answer is still in the buffer alone.

        Interim answers are skipped.
        """
        size = self._fill()
        data, spare = bytes(_buffer[: min(size, LOOK_BYTES)]), _buffer[LOOK_BYTES:size]
        while True:
            if not data:
                raise Broken("reset", "closed before an answer")
            if not b"HTTP/1.".startswith(data[:7]):
                raise Broken("bad_body", "no HTTP")
            if b"\r\n\r\n" in data:
                try:
                    self.status = int(data[9:12])
                except ValueError:
                    raise Broken("bad_body", "no status") from None
                if self.status >= 200:
                    return data, spare
                data, spare = data[data.index(b"\r\n\r\n") + 4 :] + spare, NOTHING
                if data:
                    continue
            if len(data) > HEAD_MOST:
                raise Broken("bad_body", "a head without end")
            size = self._fill()
            if not size:
                raise Broken("reset", "closed within the head")
            data, spare = data + spare + _buffer[:size], NOTHING

    def _take(self, body: bytes, spare: memoryview, length: int) -> None:
        """Read a body of known length: only its ends are kept, and all of it where it is asked for."""
        self.length = length
        missing = length - len(body) - len(spare)
        if missing < 0:
            raise Broken("bad_body", "more bytes than Content-Length")
        self.first = body[:FIRST_BYTES]
        last = bytes(spare[-LAST_BYTES:]) if len(spare) >= LAST_BYTES else body[-LAST_BYTES:] + spare
        kept = [body, bytes(spare)] if self.keep else []
        while missing:
            size = self._fill()
            if not size:
                raise Broken("reset", "closed within the body")
            missing -= size
            if missing < 0:
                raise Broken("bad_body", "more bytes than Content-Length")
            if len(self.first) < FIRST_BYTES:
                self.first += bytes(_buffer[: min(size, FIRST_BYTES)])
            piece = bytes(_buffer[max(0, size - LAST_BYTES) : size])
            last = piece if len(piece) == LAST_BYTES else (last[-LAST_BYTES:] + piece)
            if self.keep:
                kept.append(bytes(_buffer[:size]))
        self.last = last[-LAST_BYTES:]
        self.whole = b"".join(kept)

    def _ends(self, body: bytes) -> None:
        self.length, self.first, self.last = len(body), body[:FIRST_BYTES], body[-LAST_BYTES:]
        self.whole = body if self.keep else b""

    def _until_closed(self, body: bytes) -> None:
        pieces = [body]
        while size := self._fill():
            pieces.append(bytes(_buffer[:size]))
        self._ends(b"".join(pieces))

    def _chunked(self, raw: bytearray) -> None:
        body = bytearray()
        while size := self._chunk_size(raw):
            while len(raw) < size + 2:
                self._more(raw)
            if raw[size : size + 2] != b"\r\n":
                raise Broken("bad_body", "a chunk without end")
            body += raw[:size]
            del raw[: size + 2]
        while b"\r\n" not in raw:  # trailers, up to an empty line
            self._more(raw)
        while not raw.startswith(b"\r\n"):
            end = raw.find(b"\r\n")
            if end < 0:
                self._more(raw)
            else:
                del raw[: end + 2]
        self._ends(bytes(body))

    def _chunk_size(self, raw: bytearray) -> int:
        while (end := raw.find(b"\r\n")) < 0:
            self._more(raw)
        try:
            size = int(bytes(raw[:end]).partition(b";")[0], 16)
        except ValueError:
            raise Broken("bad_body", "no chunk size") from None
        del raw[: end + 2]
        return size

    def _more(self, raw: bytearray) -> None:
        size = self._fill()
        if not size:
            raise Broken("reset", "closed within a chunk")
        raw += _buffer[:size]


class TlsConnection(Connection):
    """The same over TLS, with gevent's own socket."""

    def _raw(self) -> Any:
        return self.socket._sock

    def _is_gone(self) -> bool:
        try:
            return not self._raw().recv(1, patched_socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def _connect(self, family: int, kind: int, protocol: int, address: Any) -> None:
        plain = gevent.socket.socket(family, kind, protocol)
        self.socket = plain
        plain.connect(address)
        plain.setsockopt(patched_socket.IPPROTO_TCP, patched_socket.TCP_NODELAY, 1)
        self.socket = self.server.context.wrap_socket(plain, server_hostname=self.server.name)

    def _send(self, request: bytes) -> None:
        self.socket.sendall(request)

    def _fill(self) -> int:
        size: int = self.socket.recv_into(_buffer)
        return size


def connect(server: Server, timeout_s: float) -> Connection:
    """A connection of the kind that the server wants; nothing is opened yet."""
    return (TlsConnection if server.tls else Connection)(server, timeout_s)


def keep_deadlines() -> None:
    """Ends exchanges that are over their time, 20 ms late at most; runs as long as the process."""
    while True:
        gevent.sleep(DEADLINE_STEP_S)
        now = time.monotonic()
        for connection in list(_open):
            if 0 < connection.deadline_s < now and not connection.expired:
                connection.expire()
