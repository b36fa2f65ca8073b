"""What a machine does to deployments: clocks that jump, other users, ports that others take, and kills.

Its neighbours: a full or read-only disk and a newer state file (test_store.py), a log of 100 MB, SIGTERM ignored and
forked children (test_runtime_process.py), an engine that never answers (test_deployment.py) or hangs later
(test_keeping.py).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT, CommandLine
from stand_ins.deploying import kill_server, ours, prepared, spec, until

from deploytool.deployment import UpOptions, refresh_one, restart, stop, up
from deploytool.deployment.keeping import Keeper, Patience
from deploytool.errors import Taken
from deploytool.records import Deployment
from deploytool.store import Store

NOBODY = 65534
DAY_S = 86_400
pytestmark = pytest.mark.usefixtures("nothing_left")


def bring_up(store: Store, name: str = "one") -> Deployment:
    return up(prepared(spec(port=0)), UpOptions(name=name, smoke=False), store, lambda _: None)


@contextmanager
def a_stranger_on(port: int) -> Iterator[None]:
    """Another program's listener, as soon as the last thread of the killed server has let the port go."""
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

        def bound() -> bool:
            try:
                stranger.bind(("127.0.0.1", port))
            except OSError:
                return False
            return True

        until(bound)
        stranger.listen()
        yield


@pytest.mark.parametrize("by_s", [-DAY_S, DAY_S])
def test_a_clock_that_jumps_loses_no_server_and_shows_no_negative_time(
    store: Store, home: Path, cli: CommandLine, by_s: int
) -> None:
    """As it looks after a jump: what was written with the wall clock lies a day off."""
    one = bring_up(store)
    assert one.process is not None and one.supervisor is not None and one.ready_at is not None

    def jumped(record: Deployment) -> None:
        assert record.process is not None and record.supervisor is not None
        record.process = replace(record.process, started_at=record.process.started_at + by_s)
        record.supervisor = replace(record.supervisor, started_at=record.supervisor.started_at + by_s)
        record.ready_at = "2999-01-01T00:00:00+00:00" if by_s > 0 else "2000-01-01T00:00:00+00:00"

    store.change(one.id, jumped)
    assert refresh_one("one", store).state == "ready"
    shown = cli("ps").stdout.splitlines()[1]
    assert "ready" in shown and "-" not in shown.split()[-1]
    stop("one", store)
    assert ours(home) == []


def test_a_port_that_a_stranger_took_meanwhile_is_told_and_the_record_kept(store: Store) -> None:
    one = bring_up(store)
    stop("one", store)
    with a_stranger_on(one.launch.port), pytest.raises(Taken, match=f"port {one.launch.port}"):
        restart("one", store, lambda _: None)
    assert refresh_one("one", store).state == "died"
    assert restart("one", store, lambda _: None, smoke=False).state == "ready"


def test_watch_gives_up_on_a_port_that_a_stranger_keeps(store: Store) -> None:
    one = bring_up(store)
    said: list[str] = []
    keeper = Keeper(store, said.append, Patience(most_restarts=2, first_pause_s=0.05))
    kill_server(one)
    with a_stranger_on(one.launch.port):

        def given_up() -> bool:
            keeper.look()
            return store.deployment("one").gave_up is not None

        until(given_up)
    assert f"port {one.launch.port}" in str(store.deployment("one").gave_up)
    assert "its restart failed" in "\n".join(said)


def test_status_on_processors_tells_of_no_card(store: Store, cli: CommandLine) -> None:
    bring_up(store)
    told = cli("status", "one").stdout
    assert "VRAM" not in told and "gpus" not in told
    assert re.search(r"^memory +RSS [\d,]+ MiB, no card$", told, re.MULTILINE)
    document = json.loads(cli("status", "one", "--json").stdout)
    assert document["gpus"] == []
    assert document["memory"]["vram_reason"] == "the server runs on the CPU (profile cpu)"

    on_a_card = store.deployment("one").launch.model_copy(update={"devices": (0,)})

    def moved(one: Deployment) -> None:
        one.launch = on_a_card

    store.change(store.deployment("one").id, moved)
    told = cli("status", "one").stdout
    assert re.search(r"^gpus +\[0\]$", told, re.MULTILINE)
    assert "VRAM unknown" in told and "(VRAM: " in told


AN_UP_THAT_TELLS = """
from stand_ins.deploying import prepared, spec
from deploytool.cli.deploy_view import Narrator, show_ready
from deploytool.cli.output import flush
from deploytool.deployment import UpOptions, up
from deploytool.store import Store
with Store() as store:
    show_ready(up(prepared(spec(port=0)), UpOptions(name="one", smoke=False), store, Narrator().line))
flush()
"""


def test_a_start_whose_reader_is_gone_goes_on(store: Store) -> None:
    """`deploytool up ... 2>&1 | head`: the server comes up, and `ps` knows it."""
    reader, writer = os.pipe()
    os.close(reader)
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    started = subprocess.run(
        [sys.executable, "-c", AN_UP_THAT_TELLS],
        env={**os.environ, "PYTHONPATH": path},
        stdout=writer,
        stderr=writer,
        check=False,
    )
    os.close(writer)
    assert started.returncode == 0
    assert refresh_one("one", store).state == "ready"


def test_following_a_log_ends_with_its_reader(store: Store) -> None:
    one = bring_up(store)
    reader, writer = os.pipe()
    os.close(reader)
    following = subprocess.run(
        [sys.executable, "-m", "deploytool", "logs", "-f", one.name],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(writer)
    assert (following.returncode, following.stderr) == (0, "")


AS_NOBODY = """
import contextlib, io, os, sys, tempfile
from deploytool.cli.main import main
home, user, *words = sys.argv[1:]
# Once as we are, for its imports: another user may not read this interpreter's libraries.
with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(io.StringIO()):
    os.environ["DEPLOYTOOL_HOME"] = scratch
    sys.argv = ["deploytool", *words]
    with contextlib.suppress(SystemExit):
        main()
os.environ["DEPLOYTOOL_HOME"] = home
os.setgroups([])
os.setgid(int(user))
os.setuid(int(user))
main()
"""


def as_nobody(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", AS_NOBODY, str(home), str(NOBODY), *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_two_users_neither_see_nor_end_each_others_servers(store: Store, home: Path) -> None:
    one = bring_up(store)
    theirs = Path(tempfile.mkdtemp())
    try:
        os.chown(theirs, NOBODY, NOBODY)
        seen = as_nobody(theirs, "ps")
        assert "nothing is deployed" in seen.stdout, seen.stderr
        ended = as_nobody(theirs, "down", "--all")
        assert "nothing was there to take down" in ended.stdout, ended.stderr
        refused = as_nobody(home, "ps")
        assert refused.returncode == 8 and "DEPLOYTOOL_HOME" in refused.stderr
    finally:
        shutil.rmtree(theirs)
    assert refresh_one("one", store).state == "ready" and one.process is not None
    assert one.process.pid in ours(home)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kills_at_random_points_leave_no_orphan_and_lose_no_record() -> None:
    """The benchmark with one point for the tool and one for the server; `make bench-kills` has a hundred each."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "kills.py"), "1", "--seed", str(os.getpid())],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
