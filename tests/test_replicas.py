"""Several replicas behind one endpoint: the real router in front of stand-in servers, and once of the real one."""

from __future__ import annotations

import collections
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from conftest import CommandLine
from stand_ins.deploying import kill_server, ours, prepared, spec, until
from stand_ins.faulty_server import LONG_WORK

from deploytool.deployment import UpOptions, down, given_key, refresh, refresh_one, restart, stop, up
from deploytool.deployment.keeping import Keeper, Patience
from deploytool.deployment.routing import replicas_of, seen_by_router
from deploytool.deployment.scaling import scale
from deploytool.errors import BadInput, DeploytoolError, NotAvailable, StartFailed, Taken, Unhealthy
from deploytool.launch import SecretUse
from deploytool.records import Deployment
from deploytool.store import Store

KEY = "sesame-open-the-door-42"
pytestmark = pytest.mark.usefixtures("nothing_left")


def bring_up(store: Store, replicas: int, *habits: str, **options: object) -> Deployment:
    wanted = UpOptions.model_validate({"name": "emb", "smoke": False, "replicas": replicas, **options})
    return up(prepared(spec(*habits, port=0)), wanted, store, lambda _: None)


def states(store: Store) -> dict[str, str]:
    return {one.name: one.state for one in refresh(store)}


class Load:
    """Clients that ask without a pause until the block ends; every answer is counted by what it was."""

    def __init__(self, url: str, clients: int, text: str) -> None:
        self.url = url
        self.text = text
        self.counts: collections.Counter[str] = collections.Counter()
        self.end = threading.Event()
        self.threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def _ask(self) -> None:
        with httpx.Client(timeout=30, trust_env=False) as client:
            while not self.end.is_set():
                try:
                    answer = client.post(
                        f"{self.url}/v1/embeddings", json={"model": "stand-in", "input": self.text}
                    )
                    told = "ok" if answer.status_code == 200 else f"{answer.status_code}: {answer.text[:80]}"
                except httpx.HTTPError as error:
                    told = repr(error)
                self.counts[told] += 1

    @property
    def failed(self) -> dict[str, int]:
        return {told: count for told, count in self.counts.items() if told != "ok"}

    def goes_on(self) -> None:
        """Wait for some answers more."""
        before = self.counts["ok"]
        until(lambda: self.counts["ok"] > before + 20)


@contextmanager
def loading(endpoint: Deployment, clients: int = 3, text: str = "hello") -> Iterator[Load]:
    load = Load(endpoint.launch.url, clients, text)
    for thread in load.threads:
        thread.start()
    try:
        load.goes_on()
        yield load
        load.goes_on()
    finally:
        load.end.set()
        for thread in load.threads:
            thread.join()


def test_replicas_come_up_behind_one_endpoint_and_go_with_it(
    store: Store, home: Path, cli: CommandLine
) -> None:
    endpoint = bring_up(store, 2, smoke=True)
    assert (endpoint.state, endpoint.is_endpoint) == ("ready", True)
    replicas = replicas_of("emb", store)
    assert [one.name for one in replicas] == ["emb-1", "emb-2"]
    assert all(one.state == "ready" and one.proven and one.launch.host == "127.0.0.1" for one in replicas)
    document = json.loads(cli("status", "emb", "--json").stdout)
    assert [(row["name"], row["state"], row["gets_requests"]) for row in document["replicas"]] == [
        ("emb-1", "ready", True),
        ("emb-2", "ready", True),
    ]
    assert document["url"] == endpoint.launch.url
    wrong = {"model": "stand-in", "input": "hello", "encoding_format": "hex"}
    bad = [httpx.post(f"{endpoint.launch.url}/v1/embeddings", json=wrong) for _ in range(30)]
    assert {answer.status_code // 100 for answer in bad} == {4}  # and they keep nobody else from being served
    good = {"model": "stand-in", "input": "hello"}
    assert httpx.post(f"{endpoint.launch.url}/v1/embeddings", json=good).status_code == 200
    kill_server(replicas[0])
    refresh_one("emb", store)
    seen = refresh_one("emb", store)
    assert seen.state == "ready" and seen.reason == "1 of 2 replicas are ready: emb-1 died"
    stop("emb", store)
    assert states(store) == {"emb": "stopped", "emb-1": "stopped", "emb-2": "stopped"}
    assert ours(home) == []
    assert restart("emb", store, lambda _: None, smoke=False).state == "ready"
    assert states(store) == dict.fromkeys(("emb", "emb-1", "emb-2"), "ready")
    assert len(down(["emb"], store, lambda _: None)) == 3
    assert ours(home) == [] and store.deployments() == []


def test_one_that_fails_takes_the_others_with_it(store: Store, home: Path, tmp_path: Path) -> None:
    """Of the two, the one that comes second exits at once."""
    with pytest.raises(StartFailed) as caught:
        bring_up(store, 2, "--once", str(tmp_path / "was-here"))
    assert "exited with 9" in caught.value.message
    assert ours(home) == [] and store.deployments() == []


def test_a_router_that_is_not_installed_is_told_before_anything_starts(
    store: Store, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sglang_router", None)
    with pytest.raises(NotAvailable, match="--replicas needs the package sglang-router") as caught:
        bring_up(store, 2)
    assert caught.value.hint == "pip install 'deploytool[router]'"
    assert store.deployments() == [] and ours(home) == []


def test_a_name_with_no_room_for_a_number_is_refused(store: Store) -> None:
    with pytest.raises(BadInput, match="cannot be a deployment's name"):
        bring_up(store, 2, name="x" * 63)
    assert store.deployments() == []


def test_the_key_is_enforced_and_in_no_command_line(
    store: Store, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEPLOYTOOL_API_KEY", KEY)
    launch = spec("--key-variable", "STAND_IN_KEY", port=0, secret=SecretUse(kind="env", name="STAND_IN_KEY"))
    options = UpOptions(name="emb", replicas=2)
    endpoint = up(prepared(launch), options, store, lambda _: None, key=given_key(None, os.environ))
    url = endpoint.launch.url
    assert httpx.get(f"{url}/workers", trust_env=False).status_code == 401
    body = {"model": "stand-in", "input": "hello"}
    assert httpx.post(f"{url}/v1/embeddings", json=body, trust_env=False).status_code == 401
    right = {"Authorization": f"Bearer {KEY}"}
    assert httpx.post(f"{url}/v1/embeddings", json=body, headers=right, trust_env=False).status_code == 200
    assert all(worker.healthy for worker in seen_by_router(endpoint, os.environ).values())
    for pid in ours(home):
        assert KEY not in Path(f"/proc/{pid}/cmdline").read_text()
    files = [path for path in home.rglob("*") if path.is_file()]
    assert files and not [path for path in files if KEY.encode() in path.read_bytes()]


def test_cards_are_shared_out_and_no_two_replicas_have_one(store: Store) -> None:
    made = prepared(spec(port=0))
    launch = made.plan.launch.model_copy(update={"devices": (0, 1, 2, 3)})
    plan = made.plan.model_copy(update={"tensor_parallel": 2, "launch": launch})
    up(made._replace(plan=plan), UpOptions(name="emb", replicas=2, smoke=False), store, lambda _: None)
    seen = []
    for one in replicas_of("emb", store):
        assert one.process is not None
        environment = Path(f"/proc/{one.process.pid}/environ").read_text().split("\0")
        seen.append((one.launch.devices, "CUDA_VISIBLE_DEVICES=0,1" in environment))
    assert seen == [((0, 1), True), ((2, 3), False)]
    with pytest.raises(NotAvailable, match="1 more of stand-in take 2 cards"):
        scale("emb", 3, store, lambda _: None)


@pytest.mark.alone
def test_scaling_drops_no_request(store: Store) -> None:
    """Requests take longer than the router's letting go: each change finds some in flight everywhere."""
    endpoint = bring_up(store, 2, "--finishes")
    with loading(endpoint, clients=24, text=LONG_WORK) as load:
        scale("emb", 4, store, lambda _: None)
        assert len(seen_by_router(endpoint, os.environ)) == 4
        load.goes_on()
        scale("emb", 1, store, lambda _: None)
        assert len(seen_by_router(endpoint, os.environ)) == 1
    assert load.failed == {}
    assert [one.name for one in replicas_of("emb", store)] == ["emb-1"]


@pytest.mark.alone
def test_a_rolling_restart_drops_no_request(store: Store) -> None:
    endpoint = bring_up(store, 2, "--finishes")
    before = {one.process.pid for one in replicas_of("emb", store) if one.process}
    with loading(endpoint) as load:
        restart("emb", store, lambda _: None, smoke=False)
    assert load.failed == {}
    after = {one.process.pid for one in replicas_of("emb", store) if one.process}
    assert before.isdisjoint(after) and len(seen_by_router(endpoint, os.environ)) == 2


@pytest.mark.alone
def test_a_replica_killed_under_load_costs_little_and_comes_back(store: Store) -> None:
    endpoint = bring_up(store, 3)
    victim = replicas_of("emb", store)[1]
    end = threading.Event()

    def watch() -> None:
        with Store(store.folder) as own:
            Keeper(own, lambda _: None, Patience(first_pause_s=0.2, look_s=0.1)).run(end)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with loading(endpoint, clients=6) as load:
            kill_server(victim)
            until(lambda: store.deployment("emb-2").restarts == 1)
            until(lambda: store.deployment("emb-2").state == "ready")
            worker = victim.launch.url
            until(lambda: seen_by_router(endpoint, os.environ)[worker].healthy)
            load.goes_on()
    finally:
        end.set()
        watcher.join()
    assert sum(load.failed.values()) <= 6, load.failed  # at most what was in flight: one a client
    assert store.deployment("emb").state == "ready"


@pytest.mark.alone
@pytest.mark.parametrize("victim", ["router", "everything"])
def test_what_watch_restarts_is_behind_the_endpoint_again(store: Store, victim: str) -> None:
    """The router forgets its workers when it dies; after a reboot all of it comes back at once."""
    endpoint = bring_up(store, 2)
    kill_server(endpoint)
    if victim == "everything":
        for one in replicas_of("emb", store):
            kill_server(one)
    keeper = Keeper(store, lambda _: None, Patience(first_pause_s=0.1))

    def back() -> bool:
        keeper.look()
        return all(one.state == "ready" for one in store.deployments()) and all(
            worker.healthy for worker in seen_by_router(store.deployment("emb"), os.environ).values()
        )

    until(back)
    assert len(seen_by_router(store.deployment("emb"), os.environ)) == 2


def test_what_cannot_be_scaled_is_told(store: Store) -> None:
    up(prepared(spec(port=0)), UpOptions(name="one", smoke=False), store, lambda _: None)
    with pytest.raises(BadInput, match="one is one server"):
        scale("one", 2, store, lambda _: None)
    bring_up(store, 2)
    stop("emb", store)
    with pytest.raises(Unhealthy, match="emb is stopped"):
        scale("emb", 3, store, lambda _: None)
    with pytest.raises(DeploytoolError, match="nobody"):
        scale("nobody", 3, store, lambda _: None)


@pytest.mark.parametrize("after", [1, 2])
def test_a_scale_that_is_interrupted_leaves_what_was_there(
    store: Store, home: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """SIGTERM as one of the new names is taken, or as the second is: none of them stays."""
    bring_up(store, 2)
    before = ours(home)
    reserve, reserved = store.reserve, []

    def reserve_and_be_interrupted(deployment: Deployment) -> None:
        reserve(deployment)
        reserved.append(deployment.name)
        if len(reserved) == after:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(store, "reserve", reserve_and_be_interrupted)
    with pytest.raises(KeyboardInterrupt):
        scale("emb", 4, store, lambda _: None)
    assert reserved == ["emb-3", "emb-4"]
    assert states(store) == dict.fromkeys(("emb", "emb-1", "emb-2"), "ready")
    assert ours(home) == before


def test_a_scale_whose_second_name_is_taken_leaves_what_was_there(store: Store) -> None:
    bring_up(store, 2)
    other = store.deployment("emb-1").model_copy(update={"id": "another", "name": "emb-4", "group": None})
    other = other.model_copy(update={"launch": other.launch.with_port(0)})
    store.reserve(other)
    with pytest.raises(Taken, match="emb-4"):
        scale("emb", 4, store, lambda _: None)
    assert {"emb", "emb-1", "emb-2", "emb-4"} == {one.name for one in store.deployments()}
    store.forget("emb-4", "another")


def test_an_interrupt_ends_all_replicas(store: Store, home: Path) -> None:

    def interrupt() -> None:
        with Store(store.folder) as own:
            until(lambda: sum(one.process is not None for one in own.deployments()) == 2)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=interrupt).start()
    with pytest.raises(DeploytoolError) as caught:
        bring_up(store, 2, "--load-s", "60")
    assert caught.value.exit_code == 130
    assert ours(home) == [] and store.deployments() == []


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.timeout(600)
def test_the_real_server_in_replicas(cli: CommandLine, home: Path, tmp_path: Path) -> None:
    """As a user types it: up, smoke, load, scale, down, with the packaged model."""
    model = "all-minilm-l6-v2"
    made = cli(
        "up", model, "--profile", "cpu", "--name", "emb", "--port", "auto", "--replicas", "2", "--set",
        "threads=1", "--json", "--no-smoke", timeout=200,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["state"] == "ready"
    assert cli("smoke", "emb").returncode == 0
    loaded = cli("load", "emb", "--batch", "1", "--concurrency", "2", "--duration", "2s", "--json")
    assert loaded.returncode == 0, loaded.stderr
    (cell,) = json.loads(loaded.stdout)["cells"]
    assert cell["requests"] > 0 and cell["errors"] == {}
    # The router takes some 50 MiB, torch in each of two servers several times that.
    assert cell["rss_peak_mib"] > 400
    assert cli("scale", "emb", "1").stdout.startswith("emb has 1 replica")
    rows = json.loads(cli("status", "emb", "--json").stdout)["replicas"]
    assert [row["name"] for row in rows] == ["emb-1"] and rows[0]["gets_requests"]
    assert cli("down", "emb").returncode == 0
    assert ours(home) == []
