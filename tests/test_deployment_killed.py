"""Tool or server killed or interrupted at any moment: the state stays true, no orphan, no stranger ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from stand_ins.deploying import (
    FOREVER,
    bring_up,
    folder_made,
    folder_of,
    identity_recorded,
    identity_written,
    kill_server,
    log_written,
    ours,
    prepared,
    reserved,
    said,
    serving,
    spec,
    until,
    up_program,
)

from deploytool.deployment import UpOptions, down, refresh, restart, stop, strays, up
from deploytool.errors import Interrupted
from deploytool.identity import identify
from deploytool.records import Deployment
from deploytool.store import Store

KEY = "sesame-open-the-door-42"

pytestmark = pytest.mark.usefixtures("nothing_left")


# The tool is killed


POINTS: list[Callable[[Store], bool]] = [
    reserved, folder_made, identity_written, identity_recorded, log_written, serving,
]  # fmt: skip


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.__name__)
def test_up_killed_at_any_moment_leaves_a_truth_and_no_orphan(
    store: Store, home: Path, point: Callable[[Store], bool]
) -> None:
    process = up_program("one", "--say", "loading", "--load-s", "0.5", "--child")
    until(lambda: point(store))
    process.kill()
    process.communicate()
    (seen,) = refresh(store)
    assert seen.state in ("starting", "died", "ready")
    if seen.state != "ready":
        assert "`up` was killed" in str(seen.reason)
    if seen.state == "died":
        assert "no server was started" in str(seen.reason)
    else:
        until(lambda: refresh(store)[0].state == "ready")
        (adopted,) = refresh(store)
        assert adopted.process is not None and adopted.process.pid in ours(home)
        assert adopted.ready_at is not None and adopted.owner is None and adopted.reason is None
    assert strays(store) == []
    lines = down([], store, lambda _: None, everything=True)
    assert len(lines) == 1
    assert ours(home) == []
    assert store.deployments() == []


@pytest.mark.parametrize("delay_ms", [150, 300, 450])
def test_up_killed_at_a_random_moment_leaves_no_orphan(store: Store, home: Path, delay_ms: int) -> None:
    process = up_program("one", "--load-s", "0.1", "--orphan")
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(delay_ms / 1000)
    process.kill()
    process.communicate()
    for seen in refresh(store):
        assert seen.state in ("starting", "died", "ready")
    down([], store, lambda _: None, everything=True)
    assert ours(home) == []


def test_an_orphaned_start_that_dies_is_told(store: Store, gate: Path) -> None:
    process = up_program("one", "--gate", str(gate))
    until(lambda: identity_recorded(store))
    process.kill()
    process.communicate()
    kill_server(store.deployment("one"))
    (seen,) = refresh(store)
    assert seen.state == "died" and "SIGKILL" in str(seen.reason)


def test_an_orphaned_start_with_wrong_vectors_is_not_adopted(store: Store, gate: Path) -> None:
    process = up_program("one", "--gate", str(gate), "--fault", "nan")
    until(lambda: identity_recorded(store))
    process.kill()
    process.communicate()
    gate.touch()
    until(lambda: refresh(store)[0].state != "starting")
    (seen,) = refresh(store)
    assert seen.state == "unhealthy" and "finite" in str(seen.reason)
    assert refresh(store)[0].state == "unhealthy"


def test_an_orphaned_start_whose_key_is_not_here_says_what_to_do(
    store: Store, gate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    habits = ("--gate", str(gate), "--key-variable", "STAND_IN_KEY")
    process = up_program("one", *habits, env={"DEPLOYTOOL_API_KEY": KEY})
    until(lambda: identity_recorded(store))
    process.kill()
    process.communicate()
    gate.touch()
    until(lambda: "DEPLOYTOOL_API_KEY" in str(refresh(store)[0].reason))
    assert store.deployment("one").state == "starting"
    monkeypatch.setenv("DEPLOYTOOL_API_KEY", KEY)
    assert refresh(store)[0].state == "ready"


def test_a_start_at_work_is_left_alone(store: Store, gate: Path) -> None:
    process = up_program("one", "--gate", str(gate))
    until(lambda: identity_recorded(store))
    (seen,) = refresh(store)
    assert (seen.state, seen.reason) == ("starting", None)
    gate.touch()
    assert process.wait(200) == 0
    process.communicate()
    assert refresh(store)[0].state == "ready"


def test_a_start_whose_deployment_is_taken_down_ends(store: Store, home: Path, gate: Path) -> None:
    process = up_program("one", "--gate", str(gate))
    until(lambda: identity_recorded(store))
    down(["one"], store, lambda _: None)
    _, told = process.communicate(timeout=200)
    assert process.returncode == 5
    assert "taken down by another command" in told
    assert ours(home) == [] and store.deployments() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("point", [reserved, serving], ids=lambda point: point.__name__)
def test_an_interrupt_cleans_up(
    store: Store, home: Path, number: signal.Signals, point: Callable[[Store], bool]
) -> None:
    process = up_program("one", "--load-s", "0.2", "--fault", "slow")
    until(lambda: point(store))
    process.send_signal(number)
    _, told = process.communicate(timeout=200)
    assert process.returncode == 130, told
    assert "nothing was left running" in told
    assert ours(home) == [] and store.deployments() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_as_the_name_is_taken_cleans_up(
    store: Store, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    reserve = store.reserve

    def reserve_and_be_interrupted(deployment: Deployment) -> None:
        reserve(deployment)
        os.kill(os.getpid(), number)

    monkeypatch.setattr(store, "reserve", reserve_and_be_interrupted)
    with pytest.raises(Interrupted, match="interrupted") as told:
        up(prepared(spec("--never-ready")), UpOptions(name="one"), store, lambda _: None)
    assert told.value.details == ("nothing was left running",)
    assert store.deployments() == [] and folder_of(store) is None


def test_an_interrupt_as_a_restart_takes_it_over_keeps_its_record(
    store: Store, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring_up(store)
    change = store.change

    def change_and_be_interrupted(deployment_id: str, by: Callable[[Deployment], None]) -> Deployment | None:
        changed = change(deployment_id, by)
        monkeypatch.setattr(store, "change", change)
        os.kill(os.getpid(), signal.SIGTERM)
        return changed

    monkeypatch.setattr(store, "change", change_and_be_interrupted)
    with pytest.raises(Interrupted) as told:
        restart("one", store, lambda _: None)
    assert told.value.details == ("one is not running; its record is kept",)
    assert ours(home) == [] and store.deployment("one").state == "died"
    assert store.deployment("one").owner is None


def test_a_second_interrupt_ends_the_patience_with_a_stubborn_server(store: Store, home: Path) -> None:
    process = up_program("one", "--ignore-term", "--say", "here", "--never-ready")
    until(lambda: said(store, "here"))
    process.send_signal(signal.SIGINT)
    until(lambda: said(store, "asked to end, and staying"))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=200)
    assert process.returncode == 130
    assert ours(home) == [] and store.deployments() == []


# The server is killed


def test_a_killed_server_is_told_and_restarted(store: Store, home: Path) -> None:
    first = bring_up(store)
    kill_server(first)
    (seen,) = refresh(store)
    assert seen.state == "died" and seen.exit_status == -signal.SIGKILL
    assert "killed by SIGKILL at" in str(seen.reason)
    assert refresh(store) == [seen]
    again = restart("one", store, lambda _: None, smoke=False)
    assert again.state == "ready" and again.launch == first.launch
    assert again.process != first.process and again.exit_status is None
    assert down(["one"], store, lambda _: None) == ["one: down"]


def test_a_killed_supervisor_is_told(store: Store) -> None:
    deployment = bring_up(store, "--child")
    assert deployment.supervisor is not None and deployment.process is not None
    os.kill(deployment.supervisor.pid, signal.SIGKILL)
    until(lambda: refresh(store)[0].state == "died")
    reason = str(refresh(store)[0].reason)
    assert "supervisor was killed" in reason
    assert "are left (pid " in reason and "deploytool down one" in reason
    assert down([], store, lambda _: None, everything=True)


def test_a_server_that_answers_no_more_is_unhealthy_and_recovers(store: Store) -> None:
    launch = spec(probe_timeout_s=2)
    deployment = up(prepared(launch), UpOptions(name="one", smoke=False), store, lambda _: None)
    assert deployment.process is not None
    os.kill(deployment.process.pid, signal.SIGSTOP)
    (seen,) = refresh(store)
    assert seen.state == "unhealthy" and "no answer within 2 s" in str(seen.reason)
    os.kill(deployment.process.pid, signal.SIGCONT)
    (seen,) = refresh(store)
    assert (seen.state, seen.reason) == ("ready", None)


def test_a_reboot_is_told(store: Store) -> None:
    deployment = bring_up(store)
    stop("one", store)
    assert deployment.process is not None
    earlier = replace(deployment.process, boot_id="an earlier boot")
    deployment.process = deployment.supervisor = earlier
    store.update(deployment)
    folder = store.deployment_folder(deployment.id)
    for name in ("server.json", "exit.json"):
        (folder / name).unlink()
    (seen,) = refresh(store)
    assert seen.state == "died" and "the machine was restarted" in str(seen.reason)


def test_a_reused_pid_is_named_and_never_touched(store: Store) -> None:
    deployment = bring_up(store)
    stop("one", store)
    stranger = subprocess.Popen(FOREVER)
    try:
        now = identify(stranger.pid)
        assert now is not None
        deployment.process = replace(now, start_ticks=1)
        deployment.supervisor = None
        store.update(deployment)
        (store.deployment_folder(deployment.id) / "server.json").unlink()
        (seen,) = refresh(store)
        assert seen.state == "died"
        assert f"pid {stranger.pid} is another program's now" in str(seen.reason)
        down([], store, lambda _: None, everything=True)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
