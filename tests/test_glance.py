"""What `ps` sees at a glance, without pydantic, is what a full look sees, or is left to the full look."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest
from stand_ins.deploying import bring_up, kill_server, prepared, record, spec

from deploytool.cli.deploy_view import uptime_s
from deploytool.deployment import UpOptions, listed, refresh, refreshing, restart, stop, up
from deploytool.glance import LAUNCH_NEEDED, NEEDED, READINESS_NEEDED, Glance, glance
from deploytool.identity import ProcessIdentity, myself
from deploytool.launch import LaunchSpec, Readiness
from deploytool.records import Deployment
from deploytool.store import Store

pytestmark = pytest.mark.usefixtures("nothing_left")


def shown(deployments: list[Deployment]) -> list[tuple[dict[str, Any], bool]]:
    """All that `ps` tells of each, but the seconds since it was ready."""
    return [(one.public(), uptime_s(one) is None) for one in deployments]


def only_glances(store: Store) -> list[tuple[dict[str, Any], bool]]:
    """What `ps` tells where nothing changed."""
    found = listed(store)
    assert all(isinstance(one, Glance) for one in found)
    return shown(found)


def test_what_did_not_change_is_seen_at_a_glance_as_by_a_full_look(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert listed(store) == []
    bring_up(store, name="ready")
    short = UpOptions(name="hangs", smoke=False)
    hanging = up(prepared(spec(probe_timeout_s=2)), short, store, lambda _: None)
    stopped, dead = (bring_up(store, name=name) for name in ("stopped", "dead"))
    assert hanging.process is not None
    os.kill(hanging.process.pid, signal.SIGSTOP)
    stop(stopped.name, store)
    kill_server(dead)
    with monkeypatch.context() as once:  # one hangs and one died since: written down, without a second look
        once.setattr(refreshing, "refresh", None)
        found = listed(store)
    assert [one.state for one in found] == ["ready", "unhealthy", "stopped", "died"]
    assert found == store.deployments() == refresh(store)
    assert only_glances(store) == shown(found)
    os.kill(hanging.process.pid, signal.SIGCONT)
    assert [one.state for one in listed(store)] == ["ready", "ready", "stopped", "died"]
    assert only_glances(store) == shown(refresh(store))


def test_what_another_command_is_at_work_on_is_shown_as_it_is(store: Store) -> None:
    bring_up(store)

    def owned(one: Deployment) -> None:
        one.owner, one.state, one.reason = myself(), "unhealthy", "being looked into"

    store.change(store.deployment("one").id, owned)
    assert only_glances(store) == shown(refresh(store))

    def abandoned(one: Deployment) -> None:
        one.owner = ProcessIdentity(pid=myself().pid, started_at=1.0)

    store.change(store.deployment("one").id, abandoned)
    assert [(one.state, one.owner) for one in listed(store)] == [("ready", None)]
    assert store.deployment("one").owner is None


def test_a_start_is_left_to_the_full_look(store: Store) -> None:
    store.reserve(record("one", spec()))
    assert [one.state for one in listed(store)] == ["died"] == [one.state for one in store.deployments()]
    assert only_glances(store) == shown(refresh(store))


def test_what_changes_while_it_is_looked_at_is_looked_at_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = bring_up(store)
    kill_server(one)
    look = refreshing.look

    def slowly(deployment: Deployment, where: Store) -> refreshing.Truth:
        seen = look(deployment, where)
        if isinstance(deployment, Glance):
            restart("one", where, lambda _: None, smoke=False)
        return seen

    monkeypatch.setattr(refreshing, "look", slowly)
    assert [found.state for found in listed(store)] == ["ready"]
    assert store.deployment("one").state == "ready"


def test_a_record_of_another_version_or_damaged_is_left_to_its_class() -> None:
    stored = record("one", spec()).model_copy(update={"state": "ready"}).model_dump(mode="json")
    assert glance(json.dumps(stored)) is not None
    for changed in (
        {"schema_version": 2},
        {"state": "starting"},
        {"launch": {"host": "127.0.0.1"}},
        {"launch": {**stored["launch"], "readiness": {}}},
        {"launch": None},
        {"wanted": "of a newer version"},
        {"launch": {**stored["launch"], "readiness": {"path": "/ready", "probe_timeout_s": "5"}}},
        {"process": {"pid": 1, "started_at": 1.0, "of_a_newer_version": True}},
    ):
        assert glance(json.dumps(stored | changed)) is None, changed
    for name in NEEDED:
        assert glance(json.dumps({key: value for key, value in stored.items() if key != name})) is None
    for text in ("", "[]", "null", "{"):
        assert glance(text) is None


def test_what_a_glance_needs_is_a_field_of_the_records() -> None:
    assert Deployment.model_fields.keys() >= NEEDED
    assert LaunchSpec.model_fields.keys() >= LAUNCH_NEEDED
    assert Readiness.model_fields.keys() >= READINESS_NEEDED


def test_ps_of_what_did_not_change_loads_no_pydantic(store: Store) -> None:
    bring_up(store)
    stopped = bring_up(store, name="two")
    stop(stopped.name, store)
    refresh(store)
    code = "import sys; from deploytool.cli.main import run; run(['ps']);sys.exit('pydantic' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert [line.split()[:2] for line in answer.stdout.splitlines()[1:3]] == [
        ["one", "ready"],
        ["two", "stopped"],
    ]
