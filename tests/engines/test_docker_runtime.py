"""The Docker runtime on a real engine: up to down, kills, every refusal with its mend, no leftovers."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
import real_docker
from ports import unused_port
from stand_ins.deploying import prepared, record

from deploytool.deployment import UpOptions, up
from deploytool.endpoint import Client, EndpointError
from deploytool.errors import DeploytoolError, NotAvailable, StartFailed, Taken
from deploytool.launch import LaunchSpec, Readiness, SecretUse
from deploytool.runtimes import runtime
from deploytool.store import Store
from docker import APIClient

CommandLine = Callable[..., "subprocess.CompletedProcess[str]"]
KEY = "sesame-open-the-door-42"
MODEL = "all-minilm-l6-v2"

pytestmark = [pytest.mark.engines, pytest.mark.xdist_group("docker")]


@pytest.fixture
def api(docker_host: str, monkeypatch: pytest.MonkeyPatch, home: Path) -> Iterator[APIClient]:
    """The engine, found empty of our containers and left so."""
    monkeypatch.setenv("DOCKER_HOST", docker_host)
    with closing(APIClient(base_url=docker_host, version="auto")) as client:
        yield client
        left = ours(client, home)
        for entry in left:
            client.remove_container(entry["Id"], force=True)
        assert not left, "containers were left"


@pytest.fixture
def start(cli: CommandLine, api: APIClient, image: str) -> Callable[..., dict[str, Any]]:
    """`up` on the real model; its document."""

    def run(*options: str) -> dict[str, Any]:
        answer = cli(*UP, "--image", image, "--port", "auto", "--json", *options, timeout=400)
        assert answer.returncode == 0, answer.stderr
        document: dict[str, Any] = json.loads(answer.stdout)
        return document

    return run


UP = ("up", MODEL, "--profile", "cpu", "--runtime", "docker")


def ours(client: APIClient, home: Path) -> list[Any]:
    return list(client.containers(all=True, filters={"label": f"deploytool.home={home / 'data'}"}))


def until(condition: Callable[[], object], what: str, seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.1)


def listed(cli: CommandLine) -> list[dict[str, Any]]:
    documents: list[dict[str, Any]] = json.loads(cli("ps", "--json").stdout)
    return documents


# The whole way


def test_from_up_to_down(
    cli: CommandLine, api: APIClient, start: Callable[..., Any], home: Path, tmp_path: Path
) -> None:
    key_file = tmp_path / "key"
    key_file.write_text(KEY)
    document = start("--api-key-file", str(key_file))
    assert document["state"] == "ready"
    assert document["runtime"] == "docker"
    assert document["memory"]["rss_mib"] > 100  # of the container's processes, seen on the host
    _check_hardening(api.inspect_container(document["container"]))
    _check_health(api, document["container"])
    with Client(document["url"], model=MODEL, api_key=KEY) as client:
        assert len(client.embed("hello").vectors[0]) == 384
    with Client(document["url"], model=MODEL) as client, pytest.raises(EndpointError):
        client.embed("hello")

    assert listed(cli)[0]["container"] == document["container"]
    assert cli("smoke", MODEL).returncode == 0
    load = cli(
        "load", MODEL, "--batch", "1,4", "--concurrency", "2", "--duration", "2s", "--warmup", "1s", "--json"
    )
    assert load.returncode == 0, load.stderr
    cells = json.loads(load.stdout)["cells"]
    assert all(cell["requests"] > 0 and not any(cell["errors"].values()) for cell in cells)

    log = cli("logs", MODEL)
    assert "stage: ready" in log.stdout
    assert KEY not in log.stdout
    status = json.loads(cli("status", MODEL, "--json").stdout)
    assert status["health"] == "/ready answered 200"
    assert status["command"].startswith("docker run")
    assert status["log"] == f"docker logs deploytool-{MODEL}"
    for path in (home / "data").rglob("*"):
        if path.is_file() and path.name != "secret.yaml":
            assert KEY.encode() not in path.read_bytes(), path

    restarted = cli("restart", MODEL, "--json")
    assert restarted.returncode == 0, restarted.stderr
    assert json.loads(restarted.stdout)["container"] != document["container"]

    assert cli("stop", MODEL).returncode == 0
    assert ours(api, home) == []
    assert listed(cli)[0]["state"] == "stopped"
    assert "stage: ready" in cli("logs", MODEL).stdout  # kept, although its container is gone
    assert cli("restart", MODEL).returncode == 0
    assert listed(cli)[0]["state"] == "ready"
    assert cli("down", MODEL).returncode == 0
    assert listed(cli) == []
    assert ours(api, home) == []


@pytest.mark.timeout(600)
def test_replicas_in_containers(
    cli: CommandLine, api: APIClient, start: Callable[..., Any], home: Path
) -> None:
    """One endpoint before two of them; one that is killed is told and goes first, and all go at once."""
    document = start("--name", "emb", "--replicas", "2")
    assert document["state"] == "ready"
    names = {entry["Names"][0] for entry in ours(api, home)}
    assert names == {"/deploytool-emb-1", "/deploytool-emb-2"}
    answers(document)
    api.kill("deploytool-emb-1")
    until(lambda: json.loads(cli("status", "emb", "--json").stdout)["reason"] is not None, "the loss is told")
    seen = json.loads(cli("status", "emb", "--json").stdout)
    assert seen["state"] == "ready" and "1 of 2 replicas are ready" in seen["reason"]
    answers(seen)
    scaled = cli("scale", "emb", "1", "--json")
    assert scaled.returncode == 0, scaled.stderr
    assert [one["name"] for one in listed(cli)] == ["emb", "emb-2"]  # the dead one went
    answers(json.loads(scaled.stdout))
    assert cli("down", "emb").returncode == 0
    assert listed(cli) == [] and ours(api, home) == []


def answers(document: dict[str, Any]) -> None:
    with Client(document["url"], model=MODEL) as client:
        for _ in range(8):
            assert len(client.embed("hello").vectors[0]) == 384


def _check_hardening(found: dict[str, Any]) -> None:
    host, config = found["HostConfig"], found["Config"]
    uid = config["User"].split(":")[0]
    assert uid != "0"
    assert (host["CapDrop"], host["CapAdd"], host["Privileged"]) == (["ALL"], None, False)
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["ReadonlyRootfs"] is True
    assert host["IpcMode"] == "private"
    assert host["Memory"] == host["MemorySwap"] > 0
    assert host["PidsLimit"] > 0
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    assert [port["HostIp"] for ports in host["PortBindings"].values() for port in ports] == ["127.0.0.1"]
    assert {(mount["Type"], mount["RW"]) for mount in found["Mounts"]} == {("bind", False)}
    assert KEY not in json.dumps(found)
    status = Path(f"/proc/{found['State']['Pid']}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 0
    assert fields["NoNewPrivs"] == "1"
    assert fields["Uid"].split()[0] == uid


def _check_health(api: APIClient, container: str) -> None:
    """The container's own health check, run now instead of after its interval."""
    test = api.inspect_container(container)["Config"]["Healthcheck"]["Test"]
    assert test[0] == "CMD"
    run = api.exec_create(container, test[1:])["Id"]
    said = api.exec_start(run)
    assert api.exec_inspect(run)["ExitCode"] == 0, said


def test_killed_removed_and_lost(
    cli: CommandLine, api: APIClient, start: Callable[..., Any], home: Path
) -> None:
    document = start("--name", "one", "--no-smoke")
    identity = document["container"]
    # A server that dies is brought back by Docker, and `ps` says so.
    os.kill(server_pid(api, identity), signal.SIGKILL)
    until(lambda: api.inspect_container(identity)["RestartCount"] == 1, "Docker restarted it")
    until(lambda: listed(cli)[0]["state"] == "ready", "it is ready again")
    assert "restarted it once" in listed(cli)[0]["reason"]
    # What a person kills stays dead, and is told with how it ended.
    api.kill(identity)
    until(lambda: listed(cli)[0]["state"] == "died", "it is seen as dead")
    assert "killed by SIGKILL" in listed(cli)[0]["reason"]
    assert "stage: ready" in cli("logs", "one").stdout
    assert cli("restart", "one", "--no-smoke").returncode == 0
    # Somebody removes it behind the tool's back.
    api.remove_container("deploytool-one", force=True)
    assert listed(cli)[0]["state"] == "died"
    assert "somebody removed it" in listed(cli)[0]["reason"]
    assert cli("restart", "one", "--no-smoke").returncode == 0
    # The state file is lost: the labels tell.
    for path in (home / "data").glob("state.sqlite*"):
        path.unlink()
    seen = cli("ps")
    assert "nothing is deployed" in seen.stdout
    assert "container deploytool-one" in seen.stderr
    assert MODEL in seen.stderr
    down = cli("down", "--all")
    assert down.returncode == 0, down.stderr
    assert "deploytool-one" in down.stdout
    assert ours(api, home) == []


def server_pid(api: APIClient, container: str) -> int:
    """The server itself: below the init that is the container's first process."""
    init = psutil.Process(api.inspect_container(container)["State"]["Pid"])
    return int(init.children()[0].pid)


def test_a_killed_up_is_found_and_taken_down(
    cli: CommandLine, api: APIClient, image: str, home: Path
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "deploytool", *UP, "--image", image, "--port", "auto"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=real_docker.ROOT,
    )  # fmt: skip
    until(lambda: ours(api, home), "its container is there")
    process.kill()
    process.wait()
    assert listed(cli)[0]["state"] in ("starting", "ready", "died")
    assert cli("down", "--all").returncode == 0
    assert ours(api, home) == []


def test_an_interrupted_up_leaves_nothing(cli: CommandLine, api: APIClient, image: str, home: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "deploytool", *UP, "--image", image, "--port", "auto"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=real_docker.ROOT, text=True,
    )  # fmt: skip
    until(lambda: ours(api, home), "its container is there")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=200)
    assert process.returncode == 130, said
    assert "nothing was left running" in said
    assert ours(api, home) == []
    assert listed(cli) == []


# What the engine refuses


def launch(usual: str, folder: Path, code: str, port: int = 0, **changes: Any) -> LaunchSpec:
    """A quick server in the image, or one that fails."""
    return LaunchSpec(
        engine="sentence-transformers",
        argv=("python3", "-c", code),
        model="stand-in",
        model_path=str(folder),
        host="127.0.0.1",
        port=port or unused_port(),
        readiness=Readiness(path="/ready", probe_timeout_s=10, start_timeout_s=120),
        image=usual,
    ).model_copy(update=changes)


SLEEP = "import time; time.sleep(600)"


@pytest.fixture
def failed(api: APIClient, image: str, minilm_folder: Path, home: Path) -> Callable[..., DeploytoolError]:
    """Bring up what must fail; nothing is left of it."""

    def run(code: str = SLEEP, name: str = "bad", **changes: Any) -> DeploytoolError:
        spec = launch(image, minilm_folder, code, **changes)
        said: list[str] = []
        with Store() as store:
            with pytest.raises(DeploytoolError) as caught:
                up(
                    prepared(spec),
                    UpOptions(name=name, runtime="docker", wait_s=120),
                    store,
                    said.append,
                )
            assert store.deployments() == []
        assert ours(api, home) == []
        return caught.value

    return run


def text(error: DeploytoolError) -> str:
    return "\n".join([error.message, *error.details, f"hint: {error.hint}"])


def test_it_exits_at_once(failed: Callable[..., DeploytoolError], home: Path) -> None:
    error = failed("print('no good at all'); raise SystemExit(3)")
    assert isinstance(error, StartFailed)
    assert "exited with 3" in error.message
    assert "no good at all" in text(error)
    assert "no good at all" in (home / "data" / "failed" / "bad.log").read_text()


def test_memory_runs_out(failed: Callable[..., DeploytoolError]) -> None:
    error = failed("data = bytearray(1 << 30); data[:] = b'x' * (1 << 30)", memory_limit_mib=64)
    assert isinstance(error, StartFailed)
    assert "more memory than its container may use of 64 MiB" in error.message


def test_no_gpu_runtime(failed: Callable[..., DeploytoolError]) -> None:
    error = failed(devices=(0,))
    assert isinstance(error, NotAvailable)
    assert "NVIDIA runtime is missing" in error.message
    assert "nvidia-ctk" in str(error.hint)


def test_a_bad_entry_point(failed: Callable[..., DeploytoolError], image: str) -> None:
    error = failed(program="sglang")
    assert isinstance(error, StartFailed)
    assert f"the image {image} has no program sglang" in error.message
    assert "--image names another" in error.message


def test_no_image(failed: Callable[..., DeploytoolError]) -> None:
    error = failed(image="nobody/nothing:here")
    assert isinstance(error, NotAvailable)
    assert "nothing is fetched unasked" in error.message
    error = failed(image="deploytool/st-server:9.9.9-cuda")
    assert error.hint is not None and "deploytool image build --variant cuda" in error.hint


def test_no_network_for_an_image(cli: CommandLine, api: APIClient) -> None:
    answer = cli(*UP, "--image", "127.0.0.1:1/none:1", "--pull")
    assert answer.returncode == 8
    assert "127.0.0.1:1/none:1 could not be fetched" in answer.stderr
    answer = cli(*UP, "--image", "127.0.0.1:1/none:1", "--offline")
    assert answer.returncode == 8
    assert "docker load" in answer.stderr
    assert "--pull" not in answer.stderr
    assert cli(*UP, "--pull", "--offline").returncode == 2


def test_an_image_for_another_processor(failed: Callable[..., DeploytoolError], docker_host: str) -> None:
    other = "arm64" if os.uname().machine == "x86_64" else "amd64"
    error = failed(image=real_docker.foreign_image(docker_host, other))
    assert error.exit_code == 4
    assert f"is built for {other}" in error.message


def test_the_name_is_taken(failed: Callable[..., DeploytoolError], api: APIClient, image: str) -> None:
    stranger = api.create_container(image, entrypoint=["python3"], command=["-V"], name="deploytool-bad")[
        "Id"
    ]
    try:
        error = failed()
        assert isinstance(error, Taken)
        assert "docker ps -a --filter name=deploytool-bad" in str(error.hint)
        assert api.inspect_container(stranger)["State"]["Status"] == "created"  # left alone
    finally:
        api.remove_container(stranger)


@pytest.fixture
def refused(api: APIClient, image: str, minilm_folder: Path, home: Path) -> Callable[..., DeploytoolError]:
    """Start a container that the engine refuses, without the looks that `up` takes before."""

    def run(**changes: Any) -> DeploytoolError:
        spec = launch(image, minilm_folder, SLEEP, **changes)
        deployment = record("refused", spec)
        folder = home / "data" / "deployments" / deployment.id
        folder.mkdir(parents=True)
        with pytest.raises(DeploytoolError) as caught:
            runtime("docker").start(deployment, folder, None)
        assert ours(api, home) == []
        return caught.value

    return run


def test_the_port_is_another_container_s(
    refused: Callable[..., DeploytoolError], api: APIClient, image: str
) -> None:
    port = unused_port()
    host = api.create_host_config(port_bindings={port: ("127.0.0.1", port)})
    other = api.create_container(
        image, entrypoint=["python3"], command=["-c", SLEEP], ports=[port], host_config=host
    )["Id"]
    try:
        api.start(other)
        error = refused(port=port)
        assert isinstance(error, Taken)
        assert f"port {port} is taken by another container" in error.message
    finally:
        api.remove_container(other, force=True)


def test_the_port_is_a_program_s(refused: Callable[..., DeploytoolError]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        error = refused(port=port)
    assert isinstance(error, Taken)
    assert f"port {port} is taken by a program of this machine" in error.message


def test_the_address_is_not_here(refused: Callable[..., DeploytoolError]) -> None:
    error = refused(host="192.0.2.1")
    assert error.exit_code == 2
    assert "192.0.2.1 is no address" in error.message


def test_a_mount_is_gone(refused: Callable[..., DeploytoolError]) -> None:
    error = refused(
        secret=SecretUse(kind="env", name="KEY", file_flag="--key-file")
    )  # and no file is written
    assert isinstance(error, NotAvailable)
    assert "what is to be mounted is not there" in error.message
    assert "secret.yaml" in error.message


def test_too_little_memory_to_begin(refused: Callable[..., DeploytoolError]) -> None:
    assert refused(memory_limit_mib=1).exit_code == 2


# While it runs


def test_a_container_is_watched_followed_and_ended(
    api: APIClient, image: str, minilm_folder: Path, home: Path
) -> None:
    """The runtime alone: a log that is followed, a pause, a server that ignores SIGTERM, no grace."""
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('one\\ntwo', flush=True);"
        "time.sleep(1); print('three', flush=True); time.sleep(600)"
    )
    deployment = record("watched", launch(image, minilm_folder, code))
    folder = home / "data" / "deployments" / deployment.id
    folder.mkdir(parents=True)
    served = runtime("docker")
    running = served.start(deployment, folder, None)
    try:
        assert running.process is not None
        assert psutil.pid_exists(running.process.pid)
        lines: list[str] = []
        with closing(served.open_log(deployment, folder, None)) as reader:

            def told() -> bool:
                lines.extend(reader.read())
                return "three" in lines

            until(told, "the log is followed")
        assert lines == ["one", "two", "three"]
        assert served.open_log(deployment, folder, 1).rest() == ["three"]
        assert served.open_log(deployment, folder, 0).rest() == []
        api.pause(running.container or "")
        seen = served.observe(deployment, folder)
        assert seen.alive
        assert "docker unpause deploytool-watched" in str(seen.reason)
    finally:
        served.stop(deployment, folder, 0.0)
    assert not served.observe(deployment, folder).alive
    assert served.open_log(deployment, folder, 2).rest() == ["two", "three"]
    assert ours(api, home) == []


def test_an_engine_that_stops_is_told(
    docker_host: str, cli: CommandLine, start: Callable[..., Any], tmp_path: Path
) -> None:
    """The record names its engine: another address, or none, is not asked for it."""
    start("--name", "one", "--no-smoke")
    elsewhere = {"DOCKER_HOST": f"unix://{tmp_path}/none"}
    assert json.loads(cli("ps", "--json", env=elsewhere).stdout)[0]["state"] == "ready"
    assert cli("down", "one", env=elsewhere).returncode == 0
    assert cli(*UP, env=elsewhere).returncode == 8
