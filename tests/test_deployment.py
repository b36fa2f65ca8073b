"""Deployments with real processes: proven or cleaned up, true after any kill, no orphan, no stranger ended.

The servers are stand-ins (`stand_ins/deployed_server.py`) on the real runtime, store and proof;
`test_deploy_cli.py` does the same through the command line with the real server and model.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from ports import unused_port
from stand_ins.deploying import FOREVER, kill_server, ours, prepared, record, spec, until

from deploytool.deployment import (
    UpOptions,
    down,
    given_key,
    log_lines,
    refresh,
    refresh_one,
    restart,
    stop,
    strays,
    up,
)
from deploytool.deployment.ports import check_port, free_port
from deploytool.errors import (
    BadInput,
    CheckFailed,
    DeploytoolError,
    Interrupted,
    NotAvailable,
    StartFailed,
    Taken,
    Unhealthy,
    UnknownName,
)
from deploytool.identity import identify
from deploytool.launch import LaunchSpec, SecretUse
from deploytool.records import Deployment
from deploytool.store import Store

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "tests" / "stand_ins" / "deploying.py"
KEY = "sesame-open-the-door-42"
pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """While this file is not there, a server with the habit --gate loads."""
    return tmp_path / "gate"


def bring_up(store: Store, *habits: str, port: int | None = None, **options: object) -> Deployment:
    wanted = UpOptions.model_validate({"name": "one", "smoke": False, **options})
    return up(prepared(spec(*habits, port=port)), wanted, store, lambda _: None)


def up_program(
    name: str, *habits: str, port: int = 0, env: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    """One `up` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), name, str(port or unused_port()), *habits],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def folder_of(store: Store) -> Path | None:
    return next(iter((store.folder / "deployments").glob("*")), None)


# Up


def test_up_is_ready_proven_and_recorded(store: Store, home: Path) -> None:
    said: list[str] = []
    options = UpOptions(name="one")
    deployment = up(
        prepared(spec("--say", "stage: loading the model", "--load-s", "0.3")), options, store, said.append
    )
    assert deployment.state == "ready" and deployment.ready_s is not None and deployment.ready_s > 0.3
    assert deployment.owner is None
    assert store.deployment("one") == deployment
    assert refresh(store) == [deployment]
    assert deployment.memory["rss_mib"] > 1
    assert deployment.memory["vram_used_mib"] is None and deployment.memory["vram_reason"]
    told = "\n".join(said)
    assert "loading the model" in told and "checks passed" in told
    public = deployment.public()
    assert public["pid"] in ours(home) and public["state"] == "ready"
    assert down(["one"], store, said.append) == ["one: down"]
    assert ours(home) == [] and store.deployments() == []


def test_the_default_name_is_the_models_and_a_name_that_no_shell_takes_is_refused(store: Store) -> None:
    assert bring_up(store, name=None).name == "stand-in"
    for name in ("", "-x", "a b", "UP", "x" * 64, "a/b"):
        with pytest.raises(BadInput, match="cannot be a deployment's name"):
            bring_up(store, name=name)


def failed(
    store: Store, home: Path, *habits: str, port: int | None = None, **options: object
) -> DeploytoolError:
    """A start that fails: nothing is left, no record, and the error tells the command and the log."""
    with pytest.raises(DeploytoolError) as caught:
        bring_up(store, *habits, port=port, **options)
    assert ours(home) == []
    assert store.deployments() == []
    return caught.value


def test_a_server_that_dies_is_told_with_cause_log_and_command(store: Store, home: Path) -> None:
    error = failed(store, home, "--say", "ModuleNotFoundError: No module named 'torch'", "--fail", "1")
    assert isinstance(error, StartFailed)
    assert "exited with 1" in error.message and "not installed" in error.message
    assert error.hint == "pip install 'deploytool[serve]'"
    told = "\n".join(error.details)
    assert "| ModuleNotFoundError" in told
    assert "deployed_server.py --port" in told
    kept = home / "data" / "failed" / "one.log"
    assert str(kept) in told and "ModuleNotFoundError" in kept.read_text()


def test_an_unknown_death_is_told_all_the_same(store: Store, home: Path) -> None:
    error = failed(store, home, "--fail", "7")
    assert isinstance(error, StartFailed)
    assert "exited with 7" in error.message
    assert "(it wrote nothing)" in "\n".join(error.details)


def test_a_server_that_never_answers_is_ended_in_time(store: Store, home: Path) -> None:
    error = failed(store, home, "--say", "stage: warming up", "--never-ready", "--ignore-term", wait_s=3)
    assert isinstance(error, StartFailed)
    assert "not ready within 3 s (stage: warming up)" in error.message
    assert "--wait" in str(error.hint)


@pytest.mark.parametrize(
    ("fault", "check"), [("nan", "finite"), ("narrower", "dimension"), ("constant", "distinct")]
)
def test_wrong_vectors_are_not_ready(store: Store, home: Path, fault: str, check: str) -> None:
    error = failed(store, home, "--fault", fault)
    assert isinstance(error, Unhealthy)
    assert check in error.message


def test_smoke_sees_what_the_proof_does_not_unless_it_is_skipped(store: Store, home: Path) -> None:
    error = failed(store, home, "--fault", "batch_dependent", smoke=True)
    assert isinstance(error, Unhealthy) and "batch_invariance" in error.message
    assert bring_up(store, "--fault", "batch_dependent", smoke=False).state == "ready"


def test_a_failed_start_is_kept_as_asked_and_never_becomes_ready_by_itself(store: Store) -> None:
    with pytest.raises(Unhealthy) as caught:
        bring_up(store, "--fault", "nan", keep_failed=True)
    assert "kept as asked (still running)" in caught.value.details[-1]
    (kept,) = refresh(store)
    assert kept.state == "unhealthy" and "finite" in str(kept.reason)
    assert refresh(store)[0].state == "unhealthy"
    assert down(["one"], store, lambda _: None) == ["one: down"]


def test_a_dead_start_is_kept_as_asked(store: Store) -> None:
    with pytest.raises(StartFailed):
        bring_up(store, "--say", "the last words", "--fail", "1", keep_failed=True)
    assert refresh(store)[0].state == "died"
    assert list(log_lines("one", store, last=None, follow=True)) == ["the last words"]


def test_an_error_of_ours_cleans_up_too(store: Store, home: Path) -> None:
    def broken(_: str) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        up(prepared(spec()), UpOptions(name="one"), store, broken)
    assert ours(home) == [] and store.deployments() == []


# Ports and names


def test_a_taken_port_is_told_with_its_holder(store: Store, home: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        error = failed(store, home, port=port)
    assert isinstance(error, Taken)
    assert f"port {port}" in error.message and f"(pid {os.getpid()})" in error.message
    assert "--port auto" in str(error.hint)


def test_a_port_that_the_server_finds_taken_is_told_as_taken(store: Store, home: Path) -> None:
    """Somebody was faster between the look and the server's own bind."""
    said = "OSError: [Errno 98] Address already in use"
    error = failed(store, home, "--say", said, "--fail", "1")
    assert isinstance(error, Taken)


def test_an_address_that_is_not_here_is_told() -> None:
    for host in ("192.0.2.1", "no.such.host.invalid"):
        with pytest.raises(BadInput, match="no address of this machine"):
            check_port(host, 8000)
    assert 0 < free_port("127.0.0.1") < 65536


def test_auto_takes_a_free_port_and_says_so_in_the_command(store: Store) -> None:
    first = bring_up(store, port=0, name="first")
    second = bring_up(store, port=0, name="second")
    ports = {first.launch.port, second.launch.port}
    assert len(ports) == 2 and 0 not in ports
    assert str(first.launch.port) in first.launch.argv
    assert str(first.launch.port) in first.plan["argv"]
    with pytest.raises(Taken, match="the name first"):
        bring_up(store, port=0, name="first")


@pytest.mark.parametrize("same", ["name", "port"])
def test_of_two_at_once_one_is_brought_up(store: Store, home: Path, same: str) -> None:
    port = unused_port()
    pair = [
        up_program("one", port=port if same == "port" else 0),
        up_program("one" if same == "name" else "two", port=port if same == "port" else 0),
    ]
    told = [process.communicate(timeout=200)[1] for process in pair]
    assert sorted(process.returncode for process in pair) == [0, 7], told
    (deployment,) = refresh(store)
    assert deployment.state == "ready"
    assert f"the {same} one" in "".join(told) if same == "name" else f"port {port} is taken" in "".join(told)


# The tool is killed


def reserved(store: Store) -> bool:
    return bool(store.deployments())


def folder_made(store: Store) -> bool:
    return folder_of(store) is not None


def identity_written(store: Store) -> bool:
    folder = folder_of(store)
    return folder is not None and (folder / "server.json").exists()


def identity_recorded(store: Store) -> bool:
    return any(one.process for one in store.deployments())


def log_written(store: Store) -> bool:
    folder = folder_of(store)
    return folder is not None and (folder / "server.log").exists()


def said(store: Store, text: str) -> bool:
    return log_written(store) and text in list(log_lines("one", store, last=5, follow=False))


def serving(store: Store) -> bool:
    return said(store, "serving")


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


# Stop, restart, down, logs


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


# Keys


def with_key(*habits: str) -> LaunchSpec:
    return spec("--key-variable", "STAND_IN_KEY", *habits, secret=SecretUse(kind="env", name="STAND_IN_KEY"))


def test_a_key_file_is_enforced_remembered_by_place_and_never_stored(
    store: Store, home: Path, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    file.write_text(KEY + "\n")
    key = given_key(file, {})
    assert key is not None and KEY not in repr(key)
    said: list[str] = []
    deployment = up(prepared(with_key()), UpOptions(name="one"), store, said.append, key=key)
    assert deployment.key_source == f"file {file}"
    assert restart("one", store, said.append).state == "ready"
    file.unlink()
    with pytest.raises(BadInput, match="cannot read the API key"):
        restart("one", store, said.append)
    assert refresh(store)[0].state == "ready"
    stored = b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())
    assert KEY.encode() not in stored
    assert KEY not in "\n".join(said) + json.dumps(deployment.model_dump())


def test_a_key_of_the_environment_is_asked_for_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    key = given_key(None, {"DEPLOYTOOL_API_KEY": KEY})
    up(prepared(with_key()), UpOptions(name="one", smoke=False), store, lambda _: None, key=key)
    stop("one", store)
    with pytest.raises(BadInput, match="DEPLOYTOOL_API_KEY, which is not set"):
        restart("one", store, lambda _: None)
    assert refresh_one("one", store).state == "stopped"
    monkeypatch.setenv("DEPLOYTOOL_API_KEY", KEY)
    assert restart("one", store, lambda _: None).state == "ready"


def test_no_key_is_no_key(tmp_path: Path) -> None:
    assert given_key(None, {}) is None
    assert given_key(None, {"DEPLOYTOOL_API_KEY": ""}) is None
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(BadInput):
        given_key(tmp_path / "empty", {})


def test_an_error_names_its_code() -> None:
    codes = {kind.exit_code for kind in (CheckFailed, BadInput, StartFailed, Unhealthy, Taken, NotAvailable)}
    assert codes == {1, 2, 5, 6, 7, 8}
    assert record("one", spec()).public()["state"] == "starting"
