"""Load on an OpenAI-compatible embeddings endpoint, in closed or (from `deploytool load`) open loop.

Closed: N users, each of which sends its next request when the answer to its last one is there. Open: requests
are due on a schedule, and a latency begins when its request was due.

By hand, web UI included:

    locust -f loadtests/embeddings.py --host http://127.0.0.1:8080 --batch 8
    locust -f loadtests/embeddings.py --host http://127.0.0.1:8080 --headless -u 16 -r 16 -t 30s

`deploytool load` runs the same file with `--cell FILE`, which fixes the work and the measured window. It
needs only locust and the modules beside it.

How it measures
- Bodies are serialised before the first request; an answer is never parsed on the loop. A success is a 2xx
  answer that came whole and looks like embeddings; its token count is read from the last bytes, outside the
  timer.
- A request ends when the last bytes of its answer arrived: the kernel tells when that was (Linux, without
  TLS), whenever this process came to read them.
- Every request is one line of the samples file, in nanoseconds of CLOCK_MONOTONIC, written within half a
  second.
- With a window (`--cell`) at least one request of every client, and five in all, start in it: a slow target
  gets a longer one, by a time-out at most. The load goes on until every request that *started* in it is
  answered, so that the last ones meet the same load as the first; what started later is recorded, but not
  measured.
- In an open loop a request that finds every connection of the pool in use is not sent: it is recorded as
  "dropped".
- After a refused, reset or timed-out request a user opens a fresh connection after 100 ms, so that a dead
  target is not flooded. HTTP errors are not paced.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import sys
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gevent
import lean_http
import load_arrivals
import load_cell
import load_master
import load_requests
import load_worker
import locust.runners
from load_state import LOAD, Shared, wait_for
from locust import User, constant, events, task
from locust.exception import StopUser

locust.runners.CONNECT_TIMEOUT = 1  # how soon a worker knocks again at its master: not after five seconds

TEXTS = (
    "How do I return an item that arrived damaged?",
    "The mitochondrion turns nutrients into energy that the cell can use.",
    "Der Zug nach Leipzig hat heute zwanzig Minuten Verspätung.",
    "La réunion est reportée à jeudi, même salle, même heure.",
    "数据库的索引可以显著加快查询速度。",
    "def median(values): return sorted(values)[len(values) // 2]",
    "SELECT name, count(*) FROM orders GROUP BY name HAVING count(*) > 10;",
    "Heavy rain is expected on the coast from noon, with gusts of up to ninety kilometres per hour.",
)


def die_with_parent() -> None:
    """Leave no load running when the tool that started this process was killed."""
    parent = int(os.environ.get("DEPLOYTOOL_LOAD_PARENT", "0"))
    if not parent:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # 1: PR_SET_PDEATHSIG
    if os.getppid() != parent:  # it was gone before the line above
        os._exit(1)


die_with_parent()


class EmbeddingUser(User):  # type: ignore[misc]
    """One client of a closed loop: one request in flight over one kept-alive connection.

    Of an open loop there is one user a process, which lets requests leave when they are due.
    """

    wait_time = constant(0)

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.connection: lean_http.Connection | None = None

    @task  # type: ignore[untyped-decorator]
    def embed(self) -> None:
        if LOAD.remote is not None:
            LOAD.remote.has_cell.wait()
        if not LOAD.requests:
            raise StopUser
        if LOAD.cell.get("rate"):
            ready_for_target()
            load_arrivals.arrive()
            raise StopUser
        connection = self.connection = lean_http.connect(LOAD.server, LOAD.timeout_s)
        try:
            if LOAD.cell:
                ready_for_target()
                while not LOAD.closing:
                    load_requests.client(connection)
            else:
                while True:
                    self._shown(load_requests.client(connection))
        finally:
            connection.close()
        raise StopUser

    def _shown(self, result: load_requests.Result) -> None:
        """For Locust's own tables and web page."""
        problem = result.problem or RuntimeError(f"{result.error} (HTTP {result.status})")
        self.environment.events.request.fire(
            request_type="POST",
            name=LOAD.path,
            response_time=result.latency_ns / 1e6,
            response_length=result.response_bytes,
            exception=problem if result.error else None,
            context={},
        )


def ready_for_target() -> None:
    """On a busy machine the calibration ends late: its requests are not the target's."""
    wait_for(Shared.TARGET)
    while LOAD.calibrating:
        gevent.sleep(0.001)


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def add_options(parser: Any) -> None:
    parser.add_argument("--batch", type=int, default=1, help="texts per request")
    parser.add_argument("--model", default="", help='sent as "model"; default: the first of /v1/models')
    parser.add_argument("--encoding", choices=("float", "base64"), default="float", help="encoding_format")
    parser.add_argument("--dimensions", type=int, default=0, help='sent as "dimensions" where not 0')
    parser.add_argument("--texts-file", default="", help="one text per line; default: a few built-in ones")
    parser.add_argument("--path", default="", help="default: /v1/embeddings below --host")
    parser.add_argument("--request-timeout", type=float, default=60.0, help="seconds for one whole answer")
    parser.add_argument(
        "--api-key-env",
        default="DEPLOYTOOL_API_KEY",
        help="environment variable that holds the API key, where there is one",
        include_in_web_ui=False,
    )
    parser.add_argument("--samples", default="", help="write one line per request to this CSV file")
    parser.add_argument("--cell", default="", help=argparse.SUPPRESS, include_in_web_ui=False)


@events.init.add_listener  # type: ignore[untyped-decorator]
def set_up(environment: Any, **_: Any) -> None:
    """Read the cell, where there is one, before the first user exists."""
    options = environment.parsed_options
    key = os.environ.get(options.api_key_env, "")
    LOAD.headers = {
        "Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity",
    }  # fmt: skip
    if key:
        LOAD.headers["Authorization"] = f"Bearer {key}"
    if options.cell:
        cell = json.loads(Path(options.cell).read_text(encoding="utf-8"))
        if hasattr(signal, "alarm"):  # ends this process whatever happens to its loop or its parent
            signal.alarm(max(1, int(cell["hard_end_s"])))
        take_part(environment, cell)
    else:
        environment.events.test_start.add_listener(lambda **_: use_options(environment))
    environment.events.quitting.add_listener(lambda **_: LOAD.flush())
    gevent.spawn(load_cell.keep_flushing)
    gevent.spawn(lean_http.keep_deadlines)


def take_part(environment: Any, cell: dict[str, Any]) -> None:
    """As the load process of a cell on this machine, or as a master or worker of one over several hosts."""
    token = os.environ.pop("DEPLOYTOOL_LOAD_TOKEN", "").encode()
    if cell["role"] == "master":
        LOAD.remote = load_master.Master(environment, cell, token)
    elif cell["role"] == "worker":
        LOAD.remote = load_worker.Worker(environment, cell, token)
    else:
        load_cell.use_cell(cell)
        LOAD.aim(cell["host"])
        environment.events.spawning_complete.add_listener(lambda **_: load_cell.begin(environment))


def use_options(environment: Any) -> None:
    """The work that the command line or the web form describes."""
    options = environment.parsed_options
    host = environment.host or options.host or ""
    below = urlsplit(host).path.rstrip("/")
    LOAD.path = options.path or (f"{below}/embeddings" if below.endswith("/v1") else f"{below}/v1/embeddings")
    LOAD.batch, LOAD.timeout_s = max(1, int(options.batch)), float(options.request_timeout)
    texts = list(TEXTS)
    if options.texts_file:
        lines = Path(options.texts_file).read_text(encoding="utf-8").splitlines()
        texts = [line for line in lines if line.strip()]
    request = {"model": options.model or first_model(host), "encoding_format": options.encoding}
    if int(options.dimensions):
        request["dimensions"] = int(options.dimensions)
    LOAD.bodies = [
        json.dumps(request | {"input": [texts[(start + i) % len(texts)] for i in range(LOAD.batch)]}).encode()
        for start in range(len(texts))
    ]
    LOAD.aim(host)
    if options.samples and LOAD.samples is None:
        LOAD.open_samples(options.samples)


def first_model(host: str) -> str:
    """What the server calls its model; "default" where it does not say."""
    parts = urlsplit(host)
    below = parts.path.rstrip("/").removesuffix("/v1")
    if parts.scheme not in ("http", "https"):
        return "default"
    url = f"{parts.scheme}://{parts.netloc}{below}/v1/models"
    request = urllib.request.Request(url, headers=LOAD.headers)  # noqa: S310 - http or https, by the line above
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            return str(json.load(answer)["data"][0]["id"])
    except (OSError, ValueError, LookupError, TypeError):
        return "default"
