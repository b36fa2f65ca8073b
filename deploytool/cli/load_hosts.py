"""`load` over several hosts: a master that leads, and workers that make the load."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import secrets
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deploytool.cli.output import note
from deploytool.errors import BadInput

if TYPE_CHECKING:
    from deploytool.loadgen.plan import Spread
    from deploytool.targets import Resolved

TOKEN_VARIABLE = "DEPLOYTOOL_LOAD_TOKEN"  # noqa: S105 - its name
WAIT_S = 60.0


@dataclass(frozen=True)
class Hosts:
    """What was given of master and workers; all None or empty: this machine alone."""

    master: str | None = None
    expect: int | None = None
    names: tuple[str, ...] = ()
    shell: str | None = None
    worker: str | None = None
    worker_name: str | None = None
    token_file: Path | None = None

    @property
    def count(self) -> int:
        return len(self.names) or self.expect or 0


def hosts_given(
    master: str | None, expect: int | None, workers: str | None, shell: str | None, worker: str | None,
    worker_name: str | None, token_file: Path | None,
) -> Hosts:  # fmt: skip
    """Raises BadInput for what does not go together."""
    names = tuple(name.strip() for name in (workers or "").split(",") if name.strip())
    given = Hosts(master, expect, names, shell, worker, worker_name, token_file)
    if worker and (master or expect or names):
        raise BadInput("--worker joins a master; it is none itself", hint="leave the other options out")
    if master and not given.count:
        raise BadInput("a master needs workers", hint="--expect-workers N, or --workers HOST,...")
    if given.count and not master:
        raise BadInput(
            "workers need to know where their master is",
            hint="--master HOST:PORT, an address of this machine that they can reach",
        )
    if names and expect and expect != len(names):
        raise BadInput(f"--workers names {len(names)}, --expect-workers says {expect}", hint="leave one out")
    if shell and not names:
        raise BadInput("--worker-shell says how --workers are started", hint="give --workers HOST,...")
    return given


def serve(given: Hosts, target: Resolved) -> int:
    """Be a worker until the run is over. The target is the one that was given here, whatever a master says."""
    from deploytool.benchmark import surroundings
    from deploytool.loadgen import child, hosts, worker

    child.require()
    master = address("--worker", given.worker or "")
    host, path = surroundings.address(target)
    name = given.worker_name or socket.gethostname()
    token = _token(given, master[0], needed=True) or ""
    if str(given.token_file) == "-":
        hosts.end_with_input(sys.stdin.fileno())
    note(f"worker {name}: load on {target.url} as the master at {given.worker} says; Ctrl-C ends it")
    done = worker.serve(
        host=host, path=path, api_key=target.api_key, master=master, token=token, name=name, wait_s=WAIT_S,
        say=note,
    )  # fmt: skip
    note(f"worker {name}: took part in {done} cell{'' if done == 1 else 's'}")
    return 0


@contextlib.contextmanager
def spread(given: Hosts, target: str) -> Iterator[Spread | None]:
    """The master's part of a run; its workers are started where they were named."""
    if not given.master:
        yield None
        return
    from deploytool.loadgen import hosts
    from deploytool.loadgen.plan import Spread

    host, port = address("--master", given.master)
    token = _token(given, host, needed=not given.names)
    token = secrets.token_hex(16) if token is None else token
    if not given.names:
        note(f"waiting for {given.count} workers: deploytool load TARGET --worker {given.master}")
        yield Spread(host, port, given.count, token)
        return
    shell = given.shell or hosts.SHELL
    with hosts.running(given.names, shell, target, given.master, token) as fault:
        yield Spread(host, port, given.count, token, fault)


def address(option: str, text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise BadInput(f"{option} {text!r} is no HOST:PORT", hint=f"for example {option} 10.0.0.5:5557")
    return host.strip("[]"), int(port)


def _token(given: Hosts, host: str, *, needed: bool) -> str | None:
    """The secret that master and workers share; it may only be missing where nobody else can knock."""
    from deploytool.loadgen.hosts import read_line

    if given.token_file is not None:
        try:
            text = (
                read_line(sys.stdin.fileno()) if str(given.token_file) == "-"
                else given.token_file.read_text(encoding="utf-8")
            )  # fmt: skip
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(
                f"cannot read the token from {given.token_file}", hint="give a file that holds it alone"
            ) from error
    else:
        text = os.environ.get(TOKEN_VARIABLE, "")
    if text.strip():
        return text.strip()
    if needed and not _is_loopback(host):
        raise BadInput(
            f"a load over the network wants a token that master and workers share ({host} is not this machine)",
            hint=f"{TOKEN_VARIABLE} or --token-file FILE, the same everywhere; `openssl rand -hex 16` makes one",
        )
    return None if given.names else ""


def _is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
