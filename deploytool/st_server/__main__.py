"""The process: the socket first, the model in the background, signals, exit codes.

Exit codes are in errors.py; 0 is a stop that was asked for, 6 a device that failed while serving.
"""

from __future__ import annotations

import asyncio
import errno
import importlib
import os
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Sequence

from deploytool.st_server import config as configuration
from deploytool.st_server import shares
from deploytool.st_server.config import Config
from deploytool.st_server.errors import BadUsage, Missing, PortTaken, StartError
from deploytool.st_server.shares import Place
from deploytool.st_server.stages import say_fatal, speak_as
from deploytool.st_server.workers import supervise

BACKLOG = 2048


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until told to stop; returns the exit code."""
    try:
        place = shares.place()
        if place is not None:
            speak_as(f"worker {place.index}: ")
        config = configuration.parse(argv)
        _set_environment(config)
        if place is not None:
            return _serve(config, place)
        with _listen(config.host, config.port) as listener:
            if config.workers > 1:
                return supervise(config, sys.argv[1:] if argv is None else argv, listener)
            return _serve(config, listener)
    except StartError as error:
        say_fatal(error)
        return error.exit_code
    except KeyboardInterrupt:
        return 0


def _serve(config: Config, where: socket.socket | Place) -> int:
    """On a socket of its own, or as one of several workers."""
    if isinstance(where, Place) and where.cpus:
        os.sched_setaffinity(0, where.cpus)
    try:
        from deploytool.st_server.lifecycle import serve
    except ImportError as error:
        raise Missing(
            f"the server needs the package {error.name or error}, which cannot be imported",
            hint="pip install 'deploytool[serve]'",
        ) from error
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(serve(config, where))


def _set_environment(config: Config) -> None:
    """Before anything heavy is imported: no network for a local folder, no chatter, no second thread pool."""
    if config.is_local:
        os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.pop(configuration.API_KEY_VARIABLE, None)
    os.environ.pop(shares.PLACE, None)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it is installed; uvicorn takes httptools by itself in the same way."""
    try:
        factory: Callable[[], asyncio.AbstractEventLoop] = importlib.import_module("uvloop").new_event_loop
    except ImportError:
        return None
    return factory


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises PortTaken or BadUsage."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError) as error:
        raise BadUsage(f"--host {host}: {error}") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortTaken(f"port {port} on {host} is in use", hint="take another --port") from error
        raise BadUsage(f"cannot listen on {host} port {port}: {error.strerror}") from error
    return listener


if __name__ == "__main__":
    status = main()
    if any(thread.daemon and thread.is_alive() for thread in threading.enumerate()):
        # A thread inside torch cannot be ended, and the interpreter's own clean-up would crash into it.
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
