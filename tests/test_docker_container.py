"""The docker runtime where no engine is needed: what a container is made of, why none answers."""

from __future__ import annotations

import http.server
import os
import re
import socket
import socketserver
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from stand_ins.deploying import record

from deploytool.catalog import Catalog
from deploytool.contained import SECRET_TARGET, model
from deploytool.engines import ENGINES
from deploytool.errors import BadInput, Incompatible, NotAvailable, Taken
from deploytool.launch import SECRET_FILE, LaunchSpec, Readiness, SecretUse
from deploytool.paths import packaged
from deploytool.plans import Prepared, prepare
from deploytool.plans.containers import contained
from deploytool.runtimes import docker_model, runtime
from deploytool.runtimes.docker_api import engine_host, get
from deploytool.runtimes.docker_build import context
from deploytool.runtimes.docker_container import (
    Container,
    command,
    container,
    create_arguments,
    user_for,
)
from deploytool.runtimes.docker_endings import exit_status, how_it_ended, oddities
from deploytool.runtimes.docker_faults import refused
from deploytool.runtimes.docker_images import Layers, pull_failed
from deploytool.runtimes.docker_secret import read_secret, write_secret

ROOT = Path(__file__).resolve().parent.parent
ME = f"{os.getuid()}:{os.getgid()}"
KEY = "sesame-open-the-door-42"


def spec(folder: Path | str, *argv: str, **changes: Any) -> LaunchSpec:
    return LaunchSpec(
        engine="sglang",
        argv=(
            "sglang",
            "serve",
            "--model-path",
            str(folder),
            "--host",
            "127.0.0.1",
            "--port",
            "30000",
            *argv,
        ),
        model="m",
        model_path=str(folder),
        host="127.0.0.1",
        port=30000,
        readiness=Readiness(path="/ready", probe_timeout_s=5, start_timeout_s=60),
        image="an/image:1",
        shm_mib=32768,
        memory_limit_mib=1000,
    ).model_copy(update=changes)


def made(launch: LaunchSpec, secret: Path | str = SECRET_FILE) -> Container:
    return container(record("one", launch), Path("/state"), "1000:1000", secret)


# What a container is made of


def test_the_command_line_is_translated(tmp_path: Path) -> None:
    found = made(spec(tmp_path))
    inside = f"/models/{tmp_path.name}"
    assert found.argv == ("sglang", "serve", "--model-path", inside, "--host", "0.0.0.0", "--port", "30000")
    assert found.binds == ((str(tmp_path), inside),)
    assert (found.address, found.port) == ("127.0.0.1", 30000)


def test_a_snapshot_is_mounted_with_its_blobs(tmp_path: Path) -> None:
    snapshot = tmp_path / "hub" / "models--org--name" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    found = model(spec(snapshot))
    assert found.bind == (str(snapshot.parents[1]), "/models/models--org--name")
    assert found.inside == "/models/models--org--name/snapshots/abc"
    # Its own code may lie in another repository of the cache.
    found = model(spec(snapshot, "--trust-remote-code"))
    assert found.bind == (str(tmp_path / "hub"), "/models")
    assert found.inside == "/models/models--org--name/snapshots/abc"


def test_a_key_is_a_mounted_file_whatever_the_engine_takes(tmp_path: Path) -> None:
    by_file = spec(
        tmp_path, "--config", SECRET_FILE, secret=SecretUse(kind="file", template="api-key: {key}\n")
    )
    assert made(by_file).argv[-2:] == ("--config", SECRET_TARGET)
    by_variable = spec(tmp_path, secret=SecretUse(kind="env", name="KEY", file_flag="--api-key-file"))
    found = made(by_variable, tmp_path / "secret.yaml")
    assert found.argv[-2:] == ("--api-key-file", SECRET_TARGET)
    assert (str(tmp_path / "secret.yaml"), SECRET_TARGET) in found.binds
    assert "KEY" not in found.environment


def test_a_key_is_written_for_the_container_s_user_and_known_for_hiding(tmp_path: Path) -> None:
    use = SecretUse(kind="file", template="api-key: {key}\n", quoting="json")
    launch = spec(tmp_path, secret=use)
    path = write_secret(launch, tmp_path, KEY, ME)
    assert path.read_text() == f'api-key: "{KEY}"\n'
    assert path.stat().st_mode & 0o777 == 0o400
    assert read_secret(launch, tmp_path) == (KEY,)
    plain = spec(tmp_path, secret=SecretUse(kind="env", name="KEY", file_flag="--api-key-file"))
    assert write_secret(plain, tmp_path, KEY, ME).read_text() == KEY
    assert read_secret(plain, tmp_path) == (KEY,)
    assert read_secret(spec(tmp_path), tmp_path) == ()


def test_the_engine_s_arguments(tmp_path: Path) -> None:
    from docker import APIClient

    api = APIClient(base_url="unix:///nonexistent", version="1.41")
    given = create_arguments(api, made(spec(tmp_path, devices=(0, 2))))
    host = given["host_config"]
    assert host["DeviceRequests"][0]["DeviceIDs"] == ["0", "2"]
    assert host["DeviceRequests"][0]["Capabilities"] == [["gpu", "compute", "utility"]]
    assert host["ShmSize"] == 32 << 30
    assert host["Memory"] == host["MemorySwap"] == 1000 << 20
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["RestartPolicy"]["Name"] == "no"
    assert host["Mounts"][0] == {
        "Target": f"/models/{tmp_path.name}", "Source": str(tmp_path), "Type": "bind", "ReadOnly": True
    }  # fmt: skip
    assert "ReadonlyRootfs" not in host or host["ReadonlyRootfs"] is False  # SGLang's was not seen to run so
    assert create_arguments(api, made(spec(tmp_path, read_only_root=True)))["host_config"]["ReadonlyRootfs"]
    assert given["user"] == "1000:1000"
    assert given["labels"]["deploytool.home"] == "/state"
    # The health check outlasts what the engine's path may take, and the start.
    assert given["healthcheck"]["timeout"] > 5_000_000_000
    assert given["healthcheck"]["start_period"] == 60_000_000_000


def test_the_command_that_is_shown(tmp_path: Path) -> None:
    text = command(
        made(spec(tmp_path, devices=(0, 1), secret=SecretUse(kind="env", name="K", file_flag="--k")))
    )
    assert text.startswith("docker run --rm --init --name deploytool-one --user 1000:1000 --cap-drop ALL")
    assert """--gpus '"device=0,1","capabilities=compute,utility"'""" in text
    assert f"--mount type=bind,src={tmp_path},dst=/models/{tmp_path.name},readonly" in text
    assert "src={secret_file}" in text
    assert "--publish 127.0.0.1:30000:30000" in text


@pytest.mark.parametrize(
    ("options", "user"),
    [(["name=seccomp,profile=default"], None), (["name=seccomp", "name=rootless"], "0:0"), (None, None)],
)
def test_the_user_in_the_container(options: list[str] | None, user: str | None) -> None:
    expected = user or (ME if os.getuid() else "65532:65532")
    assert user_for({"SecurityOptions": options}) == expected


# The model's files


def test_a_link_out_of_the_folder_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "weights").write_bytes(b"x")
    (folder / "model.safetensors").symlink_to(tmp_path / "weights")
    with pytest.raises(NotAvailable, match="is a link out of the folder") as caught:
        docker_model.check(spec(folder), ME)
    assert "cp -rL" in str(caught.value.hint)


def test_files_that_the_container_s_user_cannot_read_are_told(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir(mode=0o755)
    (folder / "model.safetensors").write_bytes(b"x")
    (folder / "model.safetensors").chmod(0o600)
    docker_model.check(spec(folder), ME)
    docker_model.check(spec(folder), "0:0")
    with pytest.raises(NotAvailable, match=r"may not read .*model\.safetensors"):
        docker_model.check(spec(folder), "54321:54321")


def test_a_model_that_is_not_here_is_told() -> None:
    with pytest.raises(NotAvailable) as caught:
        docker_model.check(spec("org/name"), ME)
    assert "hf download" in str(caught.value.hint)


# Images


def planned(profile: str, engine: str = "auto", model: str = "qwen3-0.6b") -> Prepared:
    return prepare(model, profile, engine=engine, flags={}, catalog=Catalog(), verify=False)


def test_images_by_engine_card_and_driver() -> None:
    sglang, card = ENGINES["sglang"], Catalog().hardware("a10g")
    assert sglang.image(card, None).name == "lmsysorg/sglang:v0.5.23"
    assert sglang.image(card, "580.65.06") == sglang.image(card, "590.1")
    older = sglang.image(card, "550.54.14")
    assert older.name == "lmsysorg/sglang:v0.5.19-cu129"
    assert "550.54.14 has no CUDA 13" in older.warnings[0]
    with pytest.raises(Incompatible, match="too old"):
        sglang.image(card, "470.1")
    with pytest.raises(Incompatible, match="built for NVIDIA cards"):
        sglang.image(Catalog().hardware("cpu"), None)
    ours = ENGINES["sentence-transformers"]
    assert ours.image(card, None).name.endswith("-cuda")
    assert ours.image(Catalog().hardware("cpu"), None).name.endswith("-cpu")


def test_a_plan_as_a_container_s() -> None:
    plan = contained(planned("cpu")).plan
    assert plan.launch.image is not None and plan.launch.image.startswith("deploytool/st-server:")
    assert plan.launch.read_only_root
    assert plan.launch.memory_limit_mib is not None
    assert plan.launch.memory_limit_mib > plan.memory.upper_mib
    other = contained(planned("cpu"), image="my/own:1", memory_limit_mib=5000).plan.launch
    assert (other.image, other.memory_limit_mib) == ("my/own:1", 5000)
    with pytest.raises(BadInput, match="at least 64"):
        contained(planned("cpu"), memory_limit_mib=8)


def test_what_is_for_containers_is_refused_without(cli: Any) -> None:
    for options in (("--image", "x"), ("--pull",), ("--memory-limit", "100")):
        answer = cli("up", "all-minilm-l6-v2", "--profile", "cpu", *options)
        assert answer.returncode == 2
        assert f"{options[0]} is for containers" in answer.stderr
    answer = cli("up", "all-minilm-l6-v2", "--profile", "cpu", "--runtime", "doker")
    assert answer.returncode == 2
    assert "did you mean docker?" in answer.stderr


def test_a_dry_run_shows_the_container(cli: Any) -> None:
    answer = cli("up", "qwen3-0.6b", "--profile", "a10g", "--runtime", "docker", "--dry-run")
    assert answer.returncode == 0, answer.stderr
    assert re.search(
        r"docker run .*--gpus .* --entrypoint sglang lmsysorg/sglang:v0\.5\.23 serve", answer.stdout
    )


def test_the_build_is_given_the_server_alone_and_pinned() -> None:
    import tarfile

    with tarfile.open(fileobj=context()) as tar:
        names = tar.getnames()
    assert {"st-server.Dockerfile", "requirements.txt", "deploytool/__init__.py"} <= set(names)
    assert all(name.startswith("deploytool/st_server/") for name in names if name.count("/") > 1)
    pins = set((ROOT / "constraints.txt").read_text().splitlines())
    needed = (packaged("docker") / "requirements.txt").read_text().splitlines()[1:]
    # setuptools comes with an environment here, and with torch there.
    assert [line for line in needed if line not in pins and not line.startswith("setuptools==")] == []
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["serve"]
    wanted = {re.split(r"[<>=!~\[;]", package)[0].strip() for package in extra}
    assert wanted - {re.split("==", line)[0].replace("_", "-") for line in needed} == set()
    dockerfile = (packaged("docker") / "st-server.Dockerfile").read_text()
    assert len(re.findall(r"^FROM ", dockerfile, re.MULTILINE)) == 2
    assert "USER 65532:65532" in dockerfile


def test_progress_of_layers() -> None:
    layers = Layers()
    assert str(layers) == "asking the registry"
    layers.add({"id": "a", "status": "Already exists"})
    layers.add({"id": "b", "status": "Downloading", "progressDetail": {"current": 1e9, "total": 2e9}})
    assert str(layers) == "1.00 of 2.00 GB, 1 layers were here"
    layers.add({"id": "b", "status": "Pull complete"})
    assert str(layers).startswith("2.00 of 2.00 GB")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("pull access denied for x, repository does not exist or may require 'docker login'", "private"),
        ("manifest for x:9 not found: manifest unknown: manifest unknown", "has no image"),
        ("write /var/lib/docker/tmp: no space left on device", "no room"),
        ("dial tcp: lookup registry on 127.0.0.1:53: no such host", "could not be fetched"),
    ],
)
def test_why_an_image_was_not_given(said: str, told: str) -> None:
    error = pull_failed("x:9", said)
    assert told in error.message
    assert said in error.details[0]


# What an engine says, as engines of several versions word it


@pytest.mark.parametrize(
    ("said", "kind", "told"),
    [
        ('could not select device driver "" with capabilities: [[gpu]]', NotAvailable, "NVIDIA runtime"),
        (
            "nvidia-container-cli: initialization error: nvml error: driver not loaded: unknown",
            NotAvailable,
            "nvml error: driver not loaded",
        ),
        ('exec: "sglang": executable file not found in $PATH: unknown', NotAvailable, "no program sglang"),
        ("exec /usr/bin/sglang: exec format error", NotAvailable, "another kind of processor"),
        ("mkdir /var/lib/docker: no space left on device", NotAvailable, "disk of the Docker engine"),
        ('exec: "docker-init": executable file not found in $PATH', NotAvailable, "docker-init"),
        (
            'Conflict. The container name "/deploytool-one" is already in use',
            Taken,
            "deploytool-one is taken",
        ),
    ],
)
def test_refusals(said: str, kind: type[Exception], told: str, tmp_path: Path) -> None:
    error = refused(said, made(spec(tmp_path)))
    assert type(error) is kind
    assert told in error.message
    assert error.hint
    assert said in error.details[0]


def test_endings() -> None:
    state = {"Status": "exited", "ExitCode": 137, "FinishedAt": "2026-01-01T00:00:00.123456789Z"}
    document: dict[str, Any] = {
        "State": state, "HostConfig": {"Memory": 0}, "Config": {"Image": "i", "Entrypoint": ["p"]},
        "Name": "/n", "RestartCount": 0,
    }  # fmt: skip
    assert exit_status(state) == -9
    assert how_it_ended(document).startswith("killed by SIGKILL at 20")
    assert "more memory" in how_it_ended({**document, "State": {**state, "OOMKilled": True}})
    assert "no right to execute p" in how_it_ended({**document, "State": {**state, "ExitCode": 126}})
    assert exit_status({"Status": "created", "ExitCode": 0}) is None
    assert oddities(document) is None
    waiting = {**document, "State": {**state, "Restarting": True, "Status": "restarting"}, "RestartCount": 3}
    assert "3 times so far): killed by SIGKILL" in str(oddities(waiting))


# Why an engine does not answer


def test_where_the_engine_is(tmp_path: Path) -> None:
    assert engine_host({"DOCKER_HOST": "tcp://127.0.0.1:1"}) == "tcp://127.0.0.1:1"
    if not Path("/var/run/docker.sock").exists():
        (tmp_path / "docker.sock").touch()
        assert engine_host({"XDG_RUNTIME_DIR": str(tmp_path)}) == f"unix://{tmp_path}/docker.sock"
        assert engine_host({}) == "unix:///var/run/docker.sock"


@pytest.mark.parametrize("host", ["ssh://other", "tcp://192.0.2.7:2375", "nonsense"])
def test_an_engine_elsewhere_is_refused(host: str) -> None:
    with pytest.raises(NotAvailable, match="is not on this machine"):
        get(host, "/version")


def test_no_engine(tmp_path: Path) -> None:
    with pytest.raises(NotAvailable, match="there is no Docker engine here") as caught:
        get(f"unix://{tmp_path}/none", "/version")
    assert "systemctl start docker" in str(caught.value.hint)


def test_an_engine_that_does_not_run(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(path))
    with pytest.raises(NotAvailable, match="does not run") as caught:
        get(f"unix://{path}", "/version")
    assert "journalctl" in str(caught.value.hint)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become a user without the right")
def test_no_permission(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = Path("/tmp") / f"deploytool-test-{os.getpid()}.sock"  # noqa: S108 - reachable for every user
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen()
        os.seteuid(65534)
        try:
            with pytest.raises(NotAvailable, match="may not use the Docker engine") as caught:
                get(f"unix://{path}", "/version")
        finally:
            os.seteuid(0)
            path.unlink()
    assert "usermod -aG docker" in str(caught.value.hint)


@contextmanager
def answering(path: Path, status: int, body: bytes) -> Iterator[str]:
    """A server at a Unix socket that gives every request the same answer."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

        def address_string(self) -> str:
            return "unix"

    with socketserver.UnixStreamServer(str(path), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"unix://{path}"
        finally:
            server.shutdown()
            thread.join()


def test_what_is_no_engine_is_told(tmp_path: Path) -> None:
    with answering(tmp_path / "a", 500, b"boom") as host, pytest.raises(NotAvailable, match="answered 500"):
        get(host, "/version")
    with answering(tmp_path / "b", 404, b"") as host:
        assert get(host, "/version") is None


def test_no_engine_is_no_stray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none")
    assert runtime("docker").strays(tmp_path, []) == []
