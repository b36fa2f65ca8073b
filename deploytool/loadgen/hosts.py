"""Workers on other hosts: started there by a command such as ssh, ended with the run.

Their standard input says the token, and that they are to end with it. It ends with this process however that ends,
and with a broken connection; a signal to an ssh client would not reach what it started.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from deploytool.errors import BadInput

SHELL = "ssh -o BatchMode=yes {host} deploytool"
END_S = 5.0
WITH_INPUT = "end with this input"  # the line after the token
Worker = tuple[str, "subprocess.Popen[bytes]", Path]  # its host, what started it, its log


@contextlib.contextmanager
def running(
    hosts: Sequence[str], shell: str, target: str, master: str, token: str
) -> Iterator[Callable[[], str | None]]:
    """`deploytool load TARGET --worker MASTER` on every host, with the token on its standard input.

    Gives what says which of them ended with an error, and its last words.
    """
    commands = [command(shell, host, target, master) for host in hosts]
    started: list[Worker] = []
    with tempfile.TemporaryDirectory(prefix="deploytool-workers-") as folder:
        try:
            for number, (host, argv) in enumerate(zip(hosts, commands, strict=True)):
                log = Path(folder) / f"{number}.log"
                started.append((host, _start(argv, log, token), log))
            yield lambda: _fault(started)
            until = time.monotonic() + END_S  # after the last cell they go by themselves
            for _, process, _ in started:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, until - time.monotonic()))
        finally:
            for _, process, _ in started:
                _close_input(process)
            for _, process, _ in started:
                _end(process)


def command(shell: str, host: str, target: str, master: str) -> list[str]:
    """What starts a worker. BadInput for words that a remote shell would read as something else."""
    words = ["load", target, "--worker", master, "--worker-name", host, "--token-file", "-"]
    bad = [word for word in (host, target, master) if shlex.quote(word) != word or word.startswith("-")]
    if bad:
        raise BadInput(
            f"{bad[0]!r} cannot be put on a worker's command line",
            hint="start that worker by hand: deploytool load TARGET --worker HOST:PORT",
        )
    return [*(part.replace("{host}", host) for part in shlex.split(shell)), *words]


def _start(argv: Sequence[str], log: Path, token: str) -> subprocess.Popen[bytes]:
    with log.open("wb") as out:
        try:
            process = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )
        except OSError as error:
            raise BadInput(
                f"cannot run {argv[0]}: {error.strerror or error}", hint="--worker-shell says how"
            ) from error
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.write(f"{token}\n{WITH_INPUT}\n".encode())
            process.stdin.flush()
    return process


def end_with_input(descriptor: int) -> None:
    """In a worker, its token read: raise SIGINT in this process when the input ends, if that was asked for."""

    def wait() -> None:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if read_line(descriptor) == WITH_INPUT:
                while os.read(descriptor, 1024):
                    pass
                os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=wait, daemon=True).start()


def read_line(descriptor: int) -> str:
    """One line and nothing after it; a file object would keep more, and the interpreter's end would wait for it."""
    line = bytearray()
    while (byte := os.read(descriptor, 1)) not in (b"", b"\n"):
        line += byte
    return line.decode("utf-8")


def _fault(started: Sequence[Worker]) -> str | None:
    for host, process, log in started:
        if process.poll():
            lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            return f"the worker on {host} ended with exit code {process.returncode}: {' '.join(lines[-2:])}"
    return None


def _close_input(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END_S)
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_S)
    if process.poll() is None:
        process.kill()
        process.wait()
