"""A stand-in for an engine's server, as a program: what a runtime may have to live with, one habit at a time.

It answers like `faulty_server` (right, unless --fault), after --load-s seconds, or once the file of --gate is
there. Run by the tests through the real runtime and the real use cases; `spec` and `prepared` describe it as an
engine would.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # tests/, for the import below

from stand_ins.faulty_server import FaultyServer


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--fault")
    parser.add_argument("--load-s", type=float, default=0.0)
    parser.add_argument("--gate", type=Path, help="load until this file is there")
    parser.add_argument("--never-ready", action="store_true")
    parser.add_argument("--say", default="")
    parser.add_argument("--fail", type=int, metavar="CODE", help="exit with CODE instead of serving")
    parser.add_argument("--once", type=Path, help="serve where this file is not there yet, else exit with 9")
    parser.add_argument("--key-variable", help="enforce the key that this variable holds, and print it")
    parser.add_argument("--key-file", type=Path, help="the same with a file")
    parser.add_argument("--hangs", action="store_true", help="after SIGUSR1 answer nothing any more")
    parser.add_argument("--ignore-term", action="store_true")
    parser.add_argument("--finishes", action="store_true", help="on SIGTERM answer what came in, then end")
    parser.add_argument("--child", action="store_true", help="fork a child that makes its own session")
    parser.add_argument("--orphan", action="store_true", help="the same, and its parent exits at once")
    parser.add_argument("--bare-child", action="store_true", help="fork a child without environment")
    parser.add_argument("--print-mib", type=int, default=0)
    return parser.parse_args()


def fork_away(*, between: bool) -> None:
    """A child in a session of its own; `between`: its parent is gone, so that it is an orphan."""
    if os.fork() == 0:
        os.setsid()
        if between and os.fork() != 0:
            os._exit(0)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(600)
        os._exit(0)


def serve(given: argparse.Namespace, key: str | None) -> None:
    if given.never_ready:
        time.sleep(600)
    time.sleep(given.load_s)
    while given.gate and not given.gate.exists():
        time.sleep(0.01)
    asked = threading.Event()
    if given.finishes:
        signal.signal(signal.SIGTERM, lambda *_: asked.set())
    server = FaultyServer(given.fault, key=key, port=given.port)
    if given.hangs:
        signal.signal(signal.SIGUSR1, lambda *_: server.hang())
    with server:
        print("serving", flush=True)
        asked.wait()
        while server.busy:
            time.sleep(0.01)


def main() -> None:
    given = arguments()
    if given.ignore_term:
        signal.signal(signal.SIGTERM, lambda *_: print("asked to end, and staying", flush=True))
    if given.child or given.orphan:
        fork_away(between=given.orphan)
    if given.bare_child and os.fork() == 0:
        os.execve(sys.executable, [sys.executable, "-c", "import time; time.sleep(600)"], {})  # noqa: S606
    if given.say:
        print(given.say, flush=True)
    for number in range(given.print_mib):
        print(f"{number} ".ljust(1 << 20, "x"), flush=True)
    if given.fail is not None:
        sys.exit(given.fail)
    if given.once:
        try:
            given.once.touch(exist_ok=False)
        except FileExistsError:
            sys.exit(9)
    key = os.environ[given.key_variable] if given.key_variable else None
    key = given.key_file.read_text() if given.key_file else key
    if key:
        print(f"a careless server prints its key {key} here", flush=True)
        for letter in key:
            sys.stdout.write(letter)
            sys.stdout.flush()
        print(flush=True)
    serve(given, key)


if __name__ == "__main__":
    main()
