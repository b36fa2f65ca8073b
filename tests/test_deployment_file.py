"""Deployment files: what a slip is told, what differs from what runs, and `up -f` to `down -f`."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema_rs
import pytest
import yaml
from conftest import CommandLine
from example_deployments import deployment

from deploytool.catalog import Catalog
from deploytool.cli.main import run
from deploytool.cli.up_results import Result
from deploytool.deployment import down
from deploytool.errors import InvalidFile, Taken
from deploytool.from_file.differences import Compared, compare
from deploytool.from_file.known import read
from deploytool.from_file.schema import schema
from deploytool.glance import ROUTER
from deploytool.records import Deployment
from deploytool.store import Store


class Answer(NamedTuple):
    """What a command left: in this process, since starting Python costs more than most commands."""

    returncode: int
    stdout: str
    stderr: str


Tool = Callable[..., Answer]


@pytest.fixture
def tool(capsys: pytest.CaptureFixture[str]) -> Tool:
    def answer(*words: str) -> Answer:
        code = run(list(words))
        return Answer(code, *capsys.readouterr())

    return answer


MINI = {"name": "mini", "model": "all-minilm-l6-v2", "profile": "cpu"}


def written(folder: Path, *deployments: dict[str, Any], name: str = "deploy.yaml") -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump({"deployments": list(deployments)}, sort_keys=False))
    return path


def problems(folder: Path, text: str) -> list[str]:
    path = folder / "deploy.yaml"
    path.write_text(text)
    with pytest.raises(InvalidFile) as raised:
        read(path, Catalog())
    return [f"{problem.line}: {problem.field}: {problem.message}" for problem in raised.value.problems]


def test_every_problem_of_a_file_is_told_with_its_line(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        """deployments:
  - name: Search
    model: all-minilm
    profil: cpu
    slo: "p99<150kg"
  - name: two
    model: bge-m3
    profile: cpu
    port: 99999
    gpu: [0]
    image: some/image
    set: {port: 8080, max_lenght: 8, batch: many}
  - name: two
    model: bge-m3
    profile: a10q
    engine: sglan
    runtime: podman
""",
    )
    expected = [
        "2: deployments[0].name: expected text like",
        "2: deployments[0].profile: this field is required",
        "3: deployments[0].model: no model is named 'all-minilm'; did you mean all-minilm-l6-v2?",
        "4: deployments[0].profil: unknown field; did you mean profile?",
        "5: deployments[0].slo: slo, character 8",
        "9: deployments[1].port: expected 1 to 65535, or auto, got 99999",
        "10: deployments[1].gpu: the profile cpu uses no card",
        "11: deployments[1].image: is for containers",
        "12: deployments[1].set.port: this is a field of its own",
        "12: deployments[1].set.max_lenght: no engine has such setting; did you mean max_length",
        "12: deployments[1].set.batch: expected a whole number of at least 1, got 'many'",
        "13: deployments[2].name: two is taken by deployments[1]",
        "15: deployments[2].profile: no hardware profile is named 'a10q'",
        "16: deployments[2].engine: no engine is named 'sglan'; did you mean sglang?",
        "17: deployments[2].runtime: no runtime is named 'podman'",
    ]
    assert len(found) == len(expected), "\n".join(found)
    for text in expected:
        assert any(line.startswith(text) for line in found), f"{text!r} is not among\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("deployments: []\n", "1: deployments: expected at least one deployment"),
        ("deployments:\n  - 7\n", "2: deployments[0]: expected fields"),
        ("deployments: {a: b}\n", "1: deployments: expected a list"),
        ("name: x\n", "deployments: this field is required"),
    ],
)
def test_a_file_of_another_shape_is_told(tmp_path: Path, text: str, told: str) -> None:
    assert any(told in line for line in problems(tmp_path, text))


def test_paths_in_a_file_are_relative_to_it(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    path = written(tmp_path / "sub", MINI | {"model": "./weights", "api_key_file": "../key"})
    (one,) = read(path, Catalog()).deployments
    assert one.model == str(tmp_path / "sub/weights")
    assert one.api_key_file is not None and one.api_key_file.resolve() == tmp_path / "key"


def running(path: Path | None = None, **fields: Any) -> Deployment:
    """What `up` would have left of MINI on port 8080 with max_length 128 from a file."""
    values = [
        {"name": "port", "value": 8080, "origin": "default"},
        {"name": "max_length", "value": 128, "origin": "deployment file"},
        {"name": "batch", "value": 64, "origin": "computed"},
    ]
    known = {"model": MINI["model"], "plan": {"values": values}, "from_file": str(path) if path else None}
    return deployment(8080, **(known | fields))


def compared(path: Path, *there: Deployment) -> list[Compared]:
    return compare(read(path, Catalog()), path, there, Catalog())


def test_what_is_deployed_as_asked_differs_in_nothing(tmp_path: Path) -> None:
    path = written(tmp_path, MINI | {"set": {"max_length": "128"}, "engine": "sentence-transformers"})
    (one,) = compared(path, running())
    assert one.status == "as asked" and one.differences == ()
    (dead,) = compared(path, running(state="died", reason="killed"))
    assert dead.status == "not running" and dead.reason == "killed"
    (none,) = compared(path)
    assert none.status == "new"


def test_every_changed_field_is_told_and_what_the_file_lost(tmp_path: Path) -> None:
    asked = {
        "model": "bge-m3", "profile": "a10g", "engine": "sglang", "runtime": "docker", "port": 9000, "gpu": [1],
        "image": "a/b:c", "memory_limit_mib": 4096, "api_key_file": "key", "slo": "p99<=1s", "set": {"batch": 8},
    }  # fmt: skip
    (one,) = compared(written(tmp_path, MINI | asked), running())
    told = {difference.field: (difference.deployed, difference.asked) for difference in one.differences}
    assert told == {
        "model": ("all-minilm-l6-v2", "bge-m3"),
        "profile": ("cpu", "a10g"),
        "engine": ("sentence-transformers", "sglang"),
        "runtime": ("process", "docker"),
        "port": (8080, 9000),
        "gpu": ([], [1]),
        "image": (None, "a/b:c"),
        "memory_limit_mib": (None, 4096),
        "api_key_file": (None, f"file {tmp_path / 'key'}"),
        "slo": (None, "p99<=1s"),
        "set.batch": (64, 8),
        "set.max_length": (128, None),
    }
    assert one.needs_restart and str(one.differences[0]) == "model: all-minilm-l6-v2 -> bge-m3"


def test_an_slo_alone_needs_no_restart_and_port_auto_takes_any(tmp_path: Path) -> None:
    path = written(tmp_path, MINI | {"slo": "p99<=1s", "port": "auto", "set": {"max_length": 128}})
    (one,) = compared(path, running())
    assert [difference.field for difference in one.differences] == ["slo"] and not one.needs_restart


def test_what_the_file_once_had_is_gone(tmp_path: Path) -> None:
    path = written(tmp_path, MINI)
    old = running(path, name="old")
    elsewhere = running(tmp_path / "other.yaml", name="elsewhere")
    assert [(one.name, one.status) for one in compared(path, old, elsewhere)] == [
        ("mini", "new"),
        ("old", "gone"),
    ]


def test_replicas_are_counted_and_an_endpoint_is_scaled(tmp_path: Path) -> None:
    path = written(tmp_path, MINI | {"set": {"max_length": 128}, "replicas": 3})
    (single,) = compared(path, running(path))
    assert [str(one) for one in single.differences] == ["replicas: 1 -> 3"]
    assert single.needs_restart and not single.needs_scaling
    like = running(path)
    router = like.launch.model_copy(update={"engine": ROUTER})
    endpoint = like.model_copy(update={"launch": router})
    members = [running(path, name=f"mini-{number}", group="mini") for number in (1, 2)]
    (one,) = compared(path, endpoint, *members)
    assert [str(difference) for difference in one.differences] == ["replicas: 2 -> 3"]
    assert one.needs_scaling and not one.needs_restart


def test_the_schema_takes_right_files_and_knows_the_engines_settings(tmp_path: Path) -> None:
    document = schema("deployment", models=["all-minilm-l6-v2"], profiles=["cpu"])
    jsonschema_rs.meta.validate(document)
    check = jsonschema_rs.validator_for(document)
    good = MINI | {"port": "auto", "engine": "sglang", "set": {"max_length": 128, "mem_fraction_static": 0.5}}
    assert list(check.iter_errors({"deployments": [good]})) == []
    for slip in ({"port": 0}, {"engine": "x"}, {"set": {"max_lenght": 1}}, {"set": {"batch": 0}}, {"nme": 1}):
        assert list(check.iter_errors({"deployments": [good | slip]})), slip
    properties = document["$defs"]["Wanted"]["properties"]
    assert [name for name, known in properties.items() if not known.get("description")] == []
    assert [name for name, known in properties["set"]["properties"].items() if not known["description"]] == []
    assert properties["model"]["examples"] == ["all-minilm-l6-v2"]


@pytest.mark.parametrize("kind", ["deployment", "hardware", "model"])
def test_a_schema_is_printed_and_fits_the_packaged_files(tool: Tool, kind: str) -> None:
    answer = tool("schema", kind)
    assert answer.returncode == 0, answer.stderr
    check = jsonschema_rs.validator_for(json.loads(answer.stdout))
    folder = {"hardware": "hardware", "model": "models"}.get(kind)
    for path in sorted(Path("profiles", folder).glob("*.yaml")) if folder else []:
        document = json.loads(json.dumps(yaml.safe_load(path.read_text()), default=str))
        assert list(check.iter_errors(document)) == [], path


def test_a_schema_of_nothing_known_is_refused(tool: Tool) -> None:
    answer = tool("schema", "deploymnet")
    assert answer.returncode == 2 and "did you mean deployment?" in answer.stderr


def test_plans_of_a_file_show_what_came_from_it(
    tool: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEPLOYTOOL_MAX_TEXTS", "32")
    path = written(
        tmp_path,
        MINI | {"set": {"max_length": 128, "max_texts": 16, "batch": 9}},
        MINI | {"name": "off", "model": "qwen3-8b", "profile": "rtx3060-12gb", "port": "auto"},
    )
    answer = tool(
        "up", "-f", str(path), "--dry-run", "--skip-preflight", "--set", "batch=7", "--json"
    )  # fmt: skip
    assert answer.returncode == 3, answer.stderr
    first, second = json.loads(answer.stdout)
    values = {value["name"]: (value["value"], value["origin"]) for value in first["values"]}
    assert values["max_length"] == (128, "deployment file")
    assert values["max_texts"] == (32, "environment")
    assert values["batch"] == (7, "flag")
    assert second["name"] == "off" and second["error"]["exit_code"] == 3


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("up", "-f", "{file}", "--name", "x"), "--name and -f exclude each other"),
        (("up", "qwen3-4b", "-f", "{file}"), "MODEL and -f exclude each other"),
        (("up", "-f", "{file}", "--port", "8080"), "--port is for one deployment"),
        (("up",), "MODEL is missing"),
        (("up", "qwen3-4b"), "--profile is missing"),
        (("up", "-f", "nowhere.yaml"), "nowhere.yaml: cannot be read"),
        (("down", "-f", "nowhere.yaml"), "nowhere.yaml: cannot be read"),
    ],
)
def test_what_contradicts_a_file_is_refused(
    tool: Tool, tmp_path: Path, arguments: tuple[str, ...], told: str
) -> None:
    path = written(tmp_path, MINI, MINI | {"name": "two"})
    answer = tool(*(word.format(file=path) for word in arguments))
    assert answer.returncode == 2 and told in answer.stderr


def test_one_that_fails_does_not_keep_the_others_from_being_tried(tool: Tool, tmp_path: Path) -> None:
    path = written(
        tmp_path,
        MINI | {"name": "gone", "model": str(tmp_path / "nothing")},
        MINI | {"name": "wrong", "engine": "sglang", "port": "auto"},
    )
    answer = tool("up", "-f", str(path), "--json")
    assert answer.returncode == 2
    results = {one["name"]: one for one in json.loads(answer.stdout)}
    assert (
        results["gone"]["result"] == "failed" and "there is no folder" in results["gone"]["error"]["message"]
    )
    assert results["wrong"]["error"]["exit_code"] == 4
    assert tool("diff", "-f", str(path)).returncode == 1
    nothing = tool("down", "-f", str(path))
    assert nothing.returncode == 0 and "nothing was there" in nothing.stdout


def test_a_result_says_what_went_wrong_as_json() -> None:
    document = Result("x", "failed", error=Taken("taken", hint="another")).document()
    assert document["deployment"] is None and document["error"]["exit_code"] == 7


def test_capacity_takes_the_slo_of_the_file(tool: Tool) -> None:
    with Store() as store:
        store.reserve(running(slo="p99<=1s", state="died"))
        store.reserve(running(name="silent", state="died"))
    held = tool("capacity", "mini")
    assert held.returncode != 0 and "SLO of the deployment file: p99<=1s" in held.stderr
    assert "--slo is missing" in tool("capacity", "silent").stderr
    assert "--slo is missing" in tool("capacity", "http://127.0.0.1:9").stderr


def answered(answer: subprocess.CompletedProcess[str], code: int = 0) -> dict[str, Any]:
    assert answer.returncode == code, answer.stderr
    return {one["name"]: one for one in json.loads(answer.stdout)}


# An export starts in a fraction of the time that torch takes, and this is about whole deployments.
QUICK = MINI | {"port": "auto", "set": {"backend": "onnx"}}
LATE = {"wait_s": 0.2, "set": {"backend": "onnx", "max_queue": 9}}  # planned well, and not ready in time


@pytest.mark.slow
@pytest.mark.model
def test_a_file_is_brought_up_compared_replaced_and_taken_down(cli: CommandLine, tmp_path: Path) -> None:
    path = written(tmp_path, QUICK, MINI | {"name": "gone", "model": str(tmp_path / "no")})
    first = answered(cli("up", "-f", str(path), "--no-smoke", "--json"), 2)
    assert first["mini"]["result"] == "up" and first["gone"]["result"] == "failed"
    pid = first["mini"]["deployment"]["pid"]

    written(tmp_path, QUICK | {"slo": "p99<=1s"})
    assert cli("diff", "-f", str(path)).returncode == 1
    assert answered(cli("up", "-f", str(path), "--json"))["mini"]["result"] == "noted"
    assert cli("diff", "-f", str(path)).returncode == 0
    assert answered(cli("up", "-f", str(path), "--json"))["mini"]["result"] == "as asked"

    written(tmp_path, QUICK | LATE)
    left = cli("up", "-f", str(path), "--json")
    assert answered(left, 7)["mini"]["result"] == "changed" and "set.max_queue: 2048 -> 9" in left.stderr
    failed = cli("up", "-f", str(path), "--replace", "--no-smoke", "--json")
    assert answered(failed, 5)["mini"]["result"] == "failed"
    assert "the one before it runs again" in failed.stderr
    (back,) = json.loads(cli("ps", "--json").stdout)
    assert back["state"] == "ready" and back["pid"] != pid

    assert cli("down", "-f", str(path)).stdout == "mini: down\n"
    with Store() as store:
        assert down([], store, lambda _: None, everything=True) == []


@pytest.mark.slow
@pytest.mark.model
def test_replicas_of_a_file_are_scaled_and_brought_back(cli: CommandLine, tmp_path: Path) -> None:
    path = written(tmp_path, QUICK | {"replicas": 2})
    assert answered(cli("up", "-f", str(path), "--no-smoke", "--json"))["mini"]["result"] == "up"
    assert cli("diff", "-f", str(path)).returncode == 0

    written(tmp_path, QUICK)
    fewer = cli("diff", "-f", str(path))
    assert fewer.returncode == 1 and "replicas: 2 -> 1" in fewer.stdout
    assert answered(cli("up", "-f", str(path), "--json"))["mini"]["result"] == "scaled"
    assert [one["name"] for one in json.loads(cli("ps", "--json").stdout)] == ["mini", "mini-1"]

    written(tmp_path, QUICK | LATE)
    failed = cli("up", "-f", str(path), "--replace", "--no-smoke", "--json")
    assert answered(failed, 5)["mini"]["result"] == "failed"
    assert "the one before it runs again" in failed.stderr
    assert [one["state"] for one in json.loads(cli("ps", "--json").stdout)] == ["ready", "ready"]
    assert cli("smoke", "mini").returncode == 0

    assert cli("down", "-f", str(path)).returncode == 0
    with Store() as store:
        assert down([], store, lambda _: None, everything=True) == []
