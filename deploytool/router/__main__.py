"""`python -m deploytool.router FLAGS...`: sglang-router with all its flags, its API key from DEPLOYTOOL_API_KEY.

sglang-router itself takes the key as a flag alone, where every user of the machine could read it. Its argument
class and its router are used as its own launcher uses them; what is left out is that launcher's change of the
process's name, which destroys the environment that tells whose process this is. Its metrics cannot be switched off
and would listen on port 29000 of every address, which a second router finds taken: unless flags say otherwise they
are on any free port of the loopback address.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys

KEY_VARIABLE = "DEPLOYTOOL_API_KEY"
MISSING = "fatal: the package sglang-router is not installed: pip install 'deploytool[router]'"


def free_port() -> int:
    """A port of the loopback address that is free at this moment: the router takes no 0 for "any"."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def main(words: list[str]) -> None:
    try:
        from sglang_router.router import Router
        from sglang_router.router_args import RouterArgs
    except ImportError as error:
        sys.exit(f"{MISSING} ({error})")
    parser = argparse.ArgumentParser(prog="python -m deploytool.router")
    RouterArgs.add_cli_args(parser)
    given = RouterArgs.from_cli_args(parser.parse_args(words))
    given.api_key = os.environ.pop(KEY_VARIABLE, None)
    if "--prometheus-port" not in words:
        given.prometheus_host, given.prometheus_port = "127.0.0.1", free_port()
    Router.from_args(given).start()


if __name__ == "__main__":
    main(sys.argv[1:])
