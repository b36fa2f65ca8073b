"""Ports: is one free, who has it, and which one is."""

from __future__ import annotations

import errno
import socket

from deploytool.errors import BadInput, NotAvailable, Taken


def check_port(host: str, port: int) -> None:
    """Bind it for a moment. Taken (with the holder, where it can be known) or BadInput where that fails."""
    try:
        _bind(host, port).close()
    except OSError as error:
        raise _explained(host, port, error) from error


def free_port(host: str) -> int:
    """A port that is free on `host` at this moment."""
    try:
        with _bind(host, 0) as probe:
            port: int = probe.getsockname()[1]
            return port
    except OSError as error:
        raise _explained(host, 0, error) from error


def _bind(host: str, port: int) -> socket.socket:
    """A bound socket; like a server's, it does not mind connections that still linger."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    probe = socket.socket(family, kind, protocol)
    try:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
    except BaseException:
        probe.close()
        raise
    return probe


def _explained(host: str, port: int, error: OSError) -> Taken | BadInput | NotAvailable:
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return BadInput(f"{host} is no address of this machine", hint="--host 127.0.0.1 is always there")
    if error.errno == errno.EADDRINUSE:
        return Taken(
            f"port {port} on {host} is taken by {holder(port) or 'a process that cannot be seen'}",
            hint="--port auto finds a free one",
        )
    if error.errno == errno.EACCES:
        return NotAvailable(f"port {port} may only be used by root", hint="take a port above 1023")
    return NotAvailable(f"port {port} on {host} cannot be used: {error.strerror or error}")


def holder(port: int) -> str | None:
    """The program that listens on a port, as far as this user may see it."""
    import psutil

    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.Error:
        return None
    for connection in connections:
        if (
            connection.status == psutil.CONN_LISTEN
            and tuple(connection.laddr)[1:2] == (port,)
            and connection.pid
        ):
            try:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
            except psutil.Error:
                return f"pid {connection.pid}"
    return None
