"""Python programs in processes of their own, forked from one that has loaded what the command line imports.

Most of a short command's time is the import of that. What a command reads of its environment is its own, as no
module of the package reads any while it is imported; test_layers imports each verb in a fresh interpreter.

    python fork_server.py DESCRIPTOR     serve the socket at DESCRIPTOR until its other end is closed
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent.parent / "deploytool"
APART = ("__main__", "router", "st_server")  # programs of their own
LOADED = ("httpx", "platformdirs", "psutil", "rich.progress", "rich.table", "typer.main", "yaml")
MOST_BYTES = 1 << 17  # of one message; more than any environment of a test
END_TIMEOUT_S = 30.0
MOST_SERVERS = 4


class ForkServers:
    """A server for each environment that makes a difference when a program starts."""

    def __init__(self) -> None:
        self._servers: dict[frozenset[tuple[str, str]], ForkServer] = {}

    def run(
        self, words: Sequence[str], environ: Mapping[str, str], cwd: Path, timeout_s: float
    ) -> subprocess.CompletedProcess[str]:
        """`python WORD...` (-m MODULE or -c PROGRAM and arguments), as subprocess.run with captured text and an
        empty input; subprocess.TimeoutExpired likewise.
        """
        at_start = _at_start(environ)
        server = self._servers.get(at_start)
        if server is None or server.has_ended:
            if len(self._servers) == MOST_SERVERS:
                self._servers.pop(next(iter(self._servers))).close()
            server = self._servers[at_start] = ForkServer(environ)
        return server.run(words, environ, cwd, timeout_s)

    def close(self) -> None:
        for server in self._servers.values():
            server.close()


class ForkServer:
    """Runs one program at a time."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, str(Path(__file__).resolve()), str(theirs.fileno())],
                env=environ, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            )  # fmt: skip

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def run(
        self, words: Sequence[str], environ: Mapping[str, str], cwd: Path, timeout_s: float
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *words]
        told: list[int] = []  # its pid, then its exit code
        try:
            pipes = self._order({"words": list(words), "environ": dict(environ), "cwd": str(cwd)})
            said = self._collect(pipes, told, time.monotonic() + timeout_s)
        except BaseException as error:
            if told:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(told[0], signal.SIGKILL)
            self.close()
            if isinstance(error, TimeoutError):
                raise subprocess.TimeoutExpired(command, timeout_s) from error
            raise
        out, err = (io.TextIOWrapper(io.BytesIO(data)).read() for data in said)
        return subprocess.CompletedProcess(command, told[1], out, err)

    def _order(self, order: dict[str, Any]) -> list[int]:
        """Hand an order over; returns the descriptors to read its output and its errors from."""
        pipes = [os.pipe(), os.pipe()]
        theirs = [os.open(os.devnull, os.O_RDONLY), *(write for _, write in pipes)]
        try:
            socket.send_fds(self._socket, [json.dumps(order).encode()], theirs)
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        return [read for read, _ in pipes]

    def _collect(self, pipes: Sequence[int], told: list[int], deadline: float) -> list[bytes]:
        """Both streams up to their ends: what a command leaves running must not hold its output open."""
        said = {pipe: bytearray() for pipe in pipes}
        open_pipes = set(pipes)
        with selectors.DefaultSelector() as waiting:
            try:
                waiting.register(self._socket, selectors.EVENT_READ)
                for pipe in pipes:
                    waiting.register(pipe, selectors.EVENT_READ)
                while open_pipes or len(told) < 2:
                    ready = waiting.select(max(0.0, deadline - time.monotonic()))
                    if not ready:
                        raise TimeoutError
                    for key, _ in ready:
                        if key.fileobj is self._socket:
                            message = self._socket.recv(MOST_BYTES)
                            assert message, "the fork server ended"
                            told.append(int(message))
                        elif data := os.read(key.fd, 1 << 16):
                            said[key.fd] += data
                        else:
                            waiting.unregister(key.fd)
                            open_pipes.discard(key.fd)
            finally:
                for pipe in pipes:
                    os.close(pipe)
        return [bytes(data) for data in said.values()]

    def close(self) -> None:
        self._socket.close()
        self._process.wait(END_TIMEOUT_S)


def _at_start(environ: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    """What the interpreter and the dynamic linker read when a program starts, and never again."""
    read = ("PYTHON", "LD_", "LC_", "LANG", "TZ")
    return frozenset((name, value) for name, value in environ.items() if name.startswith(read))


def serve(descriptor: int) -> dict[str, Any] | None:
    """Fork for each order. Returns an order in the process that is to carry it out; None at the end."""
    with socket.socket(fileno=descriptor) as orders:
        while True:
            message, descriptors, _, _ = socket.recv_fds(orders, MOST_BYTES, 3)
            if not message:
                return None
            pid = os.fork()
            if pid == 0:
                for target, source in enumerate(descriptors):
                    os.dup2(source, target)
                    os.close(source)
                order: dict[str, Any] = json.loads(message)
                return order
            for source in descriptors:
                os.close(source)
            with contextlib.suppress(BrokenPipeError):  # who asked has lost its patience
                orders.send(str(pid).encode())
                _, status = os.waitpid(pid, 0)
                orders.send(str(os.waitstatus_to_exitcode(status)).encode())


def own_modules() -> list[str]:
    """The package's modules, all of which are quick to import."""
    below = (path.relative_to(PACKAGE).with_suffix("") for path in sorted(PACKAGE.rglob("*.py")))
    parts = (path.parts[:-1] if path.name == "__init__" else path.parts for path in below)
    return [
        ".".join((PACKAGE.name, *names)) for names in parts if names[:1] not in [(name,) for name in APART]
    ]


def main() -> None:
    for name in (*LOADED, *own_modules()):
        importlib.import_module(name)
    gc.freeze()  # else the first collection of each fork copies all pages
    order = serve(int(sys.argv[1]))
    if order is None:
        return
    os.environ.clear()
    os.environ.update(order["environ"])
    os.chdir(order["cwd"])
    kind, what, *arguments = order["words"]
    sys.argv = [kind, *arguments]
    if kind == "-c":
        sys.path[0] = ""
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102 - as `python -c` does
    else:
        sys.path[0] = order["cwd"]
        runpy.run_module(what, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
