"""Deployments with real processes: proven or cleaned up, true after any kill, no orphan, no stranger ended.

The servers are stand-ins (`stand_ins/deployed_server.py`) on the real runtime, store and proof;
`test_deploy_cli.py` does the same through the command line with the real server and model.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
from ports import unused_port
from stand_ins.deploying import bring_up, ours, prepared, record, spec, up_program

from deploytool.deployment import (
    UpOptions,
    down,
    given_key,
    log_lines,
    refresh,
    refresh_one,
    restart,
    stop,
    up,
)
from deploytool.deployment.ports import check_port, free_port
from deploytool.errors import (
    BadInput,
    CheckFailed,
    DeploytoolError,
    NotAvailable,
    StartFailed,
    Taken,
    Unhealthy,
)
from deploytool.launch import LaunchSpec, SecretUse
from deploytool.store import Store

KEY = "sesame-open-the-door-42"

pytestmark = pytest.mark.usefixtures("nothing_left")


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
