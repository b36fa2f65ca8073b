"""What was brought up is stopped, restarted, taken down, and its log is read."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from stand_ins.deploying import (
    ROOT,
    bring_up,
    identity_recorded,
    kill_server,
    ours,
    until,
    up_program,
)

from deploytool.deployment import down, log_lines, refresh, restart, stop, strays
from deploytool.errors import BadInput, Taken, UnknownName
from deploytool.store import Store

pytestmark = pytest.mark.usefixtures("nothing_left")


def test_stop_keeps_the_record_and_restart_brings_it_back(store: Store, home: Path) -> None:
    first = bring_up(store, "--say", "the first words")
    stopped = stop("one", store)
    assert stopped.state == "stopped" and stopped.process is None and ours(home) == []
    assert refresh(store) == [stopped]
    assert stop("one", store) == stopped
    assert "the first words" in list(log_lines("one", store, last=None, follow=True))
    again = restart("one", store, lambda _: None)
    assert again.state == "ready" and again.created_at == first.created_at
    assert refresh(store) == [again]


def test_a_restart_that_fails_keeps_the_record(store: Store, home: Path) -> None:
    deployment = bring_up(store)
    with socket.socket() as listener:
        stop("one", store)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", deployment.launch.port))
        listener.listen()
        with pytest.raises(Taken):
            restart("one", store, lambda _: None)
    (seen,) = refresh(store)
    assert seen.state == "died" and "its restart failed: port" in str(seen.reason)
    assert ours(home) == []
    assert restart("one", store, lambda _: None, smoke=False).state == "ready"


def test_of_two_restarts_at_once_one_is_refused(store: Store, gate: Path) -> None:
    gate.touch()
    bring_up(store, "--gate", str(gate))
    gate.unlink()
    program = (
        "import sys; from deploytool.store import Store; from deploytool.deployment import restart\n"
        "from deploytool.errors import Taken\n"
        "try: restart('one', Store(), print, smoke=False)\n"
        "except Taken as error: sys.exit(error.message)\n"
    )
    pair = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    until(lambda: any(process.poll() is not None for process in pair))
    gate.touch()  # the one that is at it may be ready, now that the other has seen it at work
    told = "".join(process.communicate(timeout=200)[1] for process in pair)
    assert sorted(process.returncode for process in pair) == [0, 1], told
    assert "one is being started by another command (pid " in told
    assert refresh(store)[0].state == "ready"


def test_a_start_that_is_stopped_elsewhere_keeps_its_record(store: Store, home: Path, gate: Path) -> None:
    process = up_program("one", "--gate", str(gate))
    until(lambda: identity_recorded(store))
    assert stop("one", store).state == "stopped"
    _, told = process.communicate(timeout=200)
    assert process.returncode == 5 and "by another command" in told
    (seen,) = refresh(store)
    assert seen.state == "stopped" and ours(home) == []


def test_a_stop_cut_off_is_finished_by_the_next(store: Store, home: Path) -> None:
    deployment = bring_up(store, "--ignore-term")
    program = (
        "from deploytool.store import Store; from deploytool.deployment import stop\nstop('one', Store())"
    )
    process = subprocess.Popen([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(ROOT)})
    until(lambda: store.deployment("one").wanted == "stopped")
    process.kill()
    process.wait()
    (seen,) = refresh(store)
    assert seen.state == "unhealthy" and "a stop was cut off" in str(seen.reason)
    assert deployment.supervisor is not None
    os.kill(deployment.supervisor.pid, signal.SIGKILL)
    until(lambda: refresh(store)[0].state == "stopped")
    assert stop("one", store).state == "stopped"
    assert ours(home) == []


def test_down_of_what_is_gone_is_no_error_and_an_unknown_name_is(store: Store, home: Path) -> None:
    bring_up(store, name="qwen3-4b")
    kill_server(store.deployment("qwen3-4b"))
    refresh(store)
    with pytest.raises(UnknownName) as caught:
        down(["qwen3-4b", "qwen3-5b"], store, lambda _: None)
    assert caught.value.near == ["qwen3-4b"]
    assert down(["qwen3-4b"], store, lambda _: None) == ["qwen3-4b: was gone already, forgotten"]
    assert "is down already, since" in down(["qwen3-4b"], store, lambda _: None)[0]
    assert down([], store, lambda _: None, everything=True) == []
    with pytest.raises(BadInput, match="nothing to take down"):
        down([], store, lambda _: None)


def test_down_ends_several_and_only_the_named(store: Store, home: Path) -> None:
    names = ("one", "two", "three")
    for name in names:
        bring_up(store, name=name)
    assert down(["one", "two", "one"], store, lambda _: None) == ["one: down", "two: down"]
    (left,) = refresh(store)
    assert (left.name, left.state) == ("three", "ready")


def test_a_lost_state_file_loses_no_process(home: Path) -> None:
    with Store() as lost:
        deployment = bring_up(lost, "--child")
    for file in (home / "data").glob("state.sqlite*"):
        file.unlink()
    with Store() as store:
        assert refresh(store) == []
        ((name, stray),) = strays(store)
        assert (name, stray.id) == ("process", deployment.id)
        (line,) = down([], store, lambda _: None, everything=True)
        assert line.startswith(f"(no record) {deployment.id}: ended pid ")
        assert ours(home) == [] and strays(store) == []


def test_the_log_is_followed_until_the_server_is_gone(store: Store) -> None:
    deployment = bring_up(store, "--print-mib", "40")
    lines: list[str] = []
    follower = threading.Thread(target=follow, args=(lines,))
    follower.start()
    until(lambda: "serving" in lines)
    kill_server(deployment)
    follower.join(120)
    assert not follower.is_alive()
    assert lines[0].startswith("39 ") and lines[-1] == "serving"


def follow(lines: list[str]) -> None:
    with Store() as own:
        lines += log_lines("one", own, last=2, follow=True)
