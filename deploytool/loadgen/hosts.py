"""Workers on other hosts: started there by a command such as ssh, ended with the run."""

from __future__ import annotations

import contextlib
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from deploytool.errors import BadInput

SHELL = "ssh -o BatchMode=yes {host} deploytool"
END_S = 5.0
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
            process.stdin.write(token.encode() + b"\n")
            process.stdin.close()
    return process


def _fault(started: Sequence[Worker]) -> str | None:
    for host, process, log in started:
        if process.poll():
            lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            return f"the worker on {host} ended with exit code {process.returncode}: {' '.join(lines[-2:])}"
    return None


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_S)
    if process.poll() is None:
        process.kill()
        process.wait()
