"""`deploytool profiles` and `deploytool models` as commands."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from stand_ins.nvml import Device, Nvml

Cli = Callable[..., "subprocess.CompletedProcess[str]"]

BROKEN = """\
name: mine
title: Mine
kind: gpu
memory_mbi: 100
dtypes: {allowed: [float16], preferred: bfloat16}
engine_defaults: {sglan: {dtype: float16}}
sources: [me]
"""


def broken(folder: Path) -> Path:
    path = folder / "hardware" / "mine.yaml"
    path.parent.mkdir()
    path.write_text(BROKEN)
    return path


def document(result: subprocess.CompletedProcess[str]) -> Any:
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_profiles_are_listed(cli: Cli) -> None:
    result = cli("profiles", "list")
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert len(lines) == 20
    assert lines[0].split()[:2] == ["profile", "card"]
    assert any("a10g" in line and "23,028" in line and "1.006" in line for line in lines)
    listed = document(cli("profiles", "list", "--json"))
    assert [entry["name"] for entry in listed] == [line.split()[0] for line in lines[1:]]
    assert all(entry["valid"] for entry in listed)


def test_a_broken_profile_is_listed_as_such_and_the_others_too(cli: Cli, tmp_path: Path) -> None:
    path = broken(tmp_path)
    result = cli("profiles", "list", "--profiles-dir", str(tmp_path))
    assert result.returncode == 0
    assert len(result.stdout.splitlines()) == 21
    assert [line.split()[:2] for line in result.stdout.splitlines() if "mine" in line] == [
        ["mine", "INVALID"]
    ]
    assert f"deploytool profiles validate {path}" in result.stderr
    listed = document(cli("profiles", "list", "--profiles-dir", str(tmp_path), "--json"))
    [mine] = [entry for entry in listed if entry["name"] == "mine"]
    assert mine["valid"] is False
    assert [problem["line"] for problem in mine["problems"]] == [1, 1, 1, 1, 4, 5]


def test_every_problem_is_reported_at_once(cli: Cli, tmp_path: Path) -> None:
    path = broken(tmp_path)
    result = cli("profiles", "validate", str(path))
    assert (result.returncode, result.stdout) == (2, "")
    for problem in (
        f"{path}:4: memory_mbi: unknown field; did you mean memory_mib",
        f"{path}:5: dtypes.preferred: expected one of dtypes.allowed (float16)",
        f"{path}:6: engine_defaults.sglan: no engine has this name; did you mean sglang?",
        "match: a card needs this",
        "memory_mib: a card needs this",
        "usable_mib: a card needs this",
        "compute_capability: a card needs this",
    ):
        assert problem in result.stderr
    answer = cli("profiles", "validate", str(path), "--json")
    assert answer.returncode == 2
    told = json.loads(answer.stdout)
    assert (told["valid"], told["files"], told["error"]["code"]) == (False, [str(path)], "invalid_file")
    assert {"file": str(path), "line": 4} == {key: told["problems"][4][key] for key in ("file", "line")}


def test_everything_shipped_is_valid(cli: Cli) -> None:
    for verb, count in (("profiles", 19), ("models", 18)):
        assert cli(verb, "validate").stdout == f"{count} files valid\n"
        told = document(cli(verb, "validate", "--json"))
        assert (told["valid"], len(told["files"]), told["problems"]) == (True, count, [])


def test_a_file_that_is_not_there_is_a_problem(cli: Cli, tmp_path: Path) -> None:
    result = cli("models", "validate", str(tmp_path / "none.yaml"))
    assert result.returncode == 2
    assert "No such file" in result.stderr


@pytest.mark.parametrize(("verb", "name"), [("profiles", "a10g"), ("models", "qwen3-4b")])
def test_show_tells_the_facts_and_their_sources(cli: Cli, verb: str, name: str) -> None:
    shown = cli(verb, "show", name)
    assert shown.returncode == 0
    facts = document(cli(verb, "show", name, "--json"))
    source = yaml.safe_load(cli(verb, "show", name, "--yaml").stdout)
    assert facts["name"] == source["name"] == name
    assert all(text in shown.stdout for text in [*source["sources"], facts["path"], facts["title"]])


def test_an_unknown_name_gets_the_nearest(cli: Cli) -> None:
    result = cli("profiles", "show", "a1og")
    assert result.returncode == 2
    assert "did you mean" in result.stderr and "a10g" in result.stderr
    told = cli("models", "show", "qwen3-40b", "--json")
    assert told.returncode == 2
    assert "qwen3-4b" in json.loads(told.stdout)["error"]["hint"]


def test_a_folder_without_a_card_can_be_shown(cli: Cli, minilm_folder: Path) -> None:
    shown = cli("models", "show", str(minilm_folder))
    assert "22,713,216 (the architecture adds up to exactly that)" in shown.stdout
    assert f"folder {minilm_folder}" in shown.stdout
    assert cli("models", "show", str(minilm_folder), "--yaml").returncode == 2


def test_models_are_listed(cli: Cli) -> None:
    lines = cli("models", "list").stdout.splitlines()
    assert len(lines) == 19
    assert any(line.split()[0] == "all-minilm-l6-v2" and "sentence-transformers" in line for line in lines)
    assert [entry["name"] for entry in document(cli("models", "list", "--json"))] == [
        line.split()[0] for line in lines[1:]
    ]


def test_a_card_with_a_broken_neighbour_is_listed(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine.yaml").write_bytes(b"name: \xff")
    result = cli("models", "list", "--profiles-dir", str(tmp_path))
    assert result.returncode == 0
    assert "expected UTF-8 text" in result.stderr
    assert len(result.stdout.splitlines()) == 20


def detect(cli: Cli, nvml: Nvml, *devices: Device) -> tuple[subprocess.CompletedProcess[str], Any]:
    nvml.write(*devices)
    plain = cli("profiles", "detect", env=nvml.env)
    return plain, document(cli("profiles", "detect", "--json", env=nvml.env))


def test_without_a_gpu_detect_says_why_and_that_cpu_can_be_used(cli: Cli, tmp_path: Path) -> None:
    env = {"LD_LIBRARY_PATH": str(tmp_path)}
    if cli("profiles", "detect", "--json", env=env).stdout.count('"index"'):
        pytest.skip("this machine has an NVIDIA card")
    result = cli("profiles", "detect", env=env)
    assert result.returncode == 0
    assert result.stdout.startswith("no GPU: ")
    assert "--profile cpu" in result.stderr
    told = document(cli("profiles", "detect", "--json", env=env))
    assert told["gpus"] == [] and told["reason"] and told["usable_profiles"] == ["cpu"]


def test_detect_names_the_profile_of_each_card(cli: Cli, nvml: Nvml) -> None:
    plain, told = detect(cli, nvml, Device(), Device(name="NVIDIA GeForce RTX 4070", total=12282, cc="8.9"))
    assert plain.returncode == 0
    assert [line.split()[-1] for line in plain.stdout.splitlines()] == ["profile", "a10g", "rtx4070"]
    assert [gpu["profiles"] for gpu in told["gpus"]] == [["a10g"], ["rtx4070"]]
    assert told["usable_profiles"] == ["a10g", "cpu", "rtx4070"]


@pytest.mark.parametrize(
    ("device", "why"),
    [
        (Device(name="NVIDIA GeForce RTX 3060", total=8192, cc="8.6"), "8,192 MiB are another card's"),
        (Device(name="NVIDIA Z1000", total=8192), "is in no profile"),
        (Device(name="NVIDIA A10G", total=None, used=None), "its memory is unknown"),
        (Device(name="NVIDIA A100-SXM4-80GB", total=9728, mig=1), "is cut into MIG instances"),
    ],
)
def test_detect_says_why_a_card_is_none_of_the_profiles(
    cli: Cli, nvml: Nvml, device: Device, why: str
) -> None:
    plain, told = detect(cli, nvml, device)
    assert plain.returncode == 0
    assert plain.stdout.splitlines()[1].endswith("none")
    assert why in plain.stderr
    assert why in told["gpus"][0]["why_none"]
    assert told["usable_profiles"] == ["cpu"]


def test_a_jetson_is_known_by_its_name_alone(cli: Cli, nvml: Nvml) -> None:
    plain, told = detect(cli, nvml, Device(name="Orin (nvgpu)", total=None, used=None, power=None, cc="8.7"))
    assert told["gpus"][0]["profiles"] == ["jetson-orin"]
    assert "memory_total_mib is unknown" in plain.stderr


def test_a_lost_card_does_not_hide_the_other(cli: Cli, nvml: Nvml) -> None:
    lost = Device(uuid="GPU-b", fail={"nvmlDeviceGetHandleByIndex_v2": 15})
    plain, told = detect(cli, nvml, lost, Device())
    assert [gpu["profiles"] for gpu in told["gpus"]] == [[], ["a10g"]]
    assert "lost" in plain.stderr


@pytest.mark.parametrize("verb", ["plan", "up", "calibrate"])
def test_without_a_profile_the_hint_names_that_of_the_card(cli: Cli, nvml: Nvml, verb: str) -> None:
    nvml.write(Device(), Device(name="NVIDIA GeForce RTX 4070", total=12282, cc="8.9"))
    answer = cli(verb, "all-minilm-l6-v2", env=nvml.env)
    assert answer.returncode == 2
    assert "--profile a10g for this machine's GPU 0" in answer.stderr
    assert "--profile rtx4070 for this machine's GPU 1" in answer.stderr
    assert "profiles: a10, a100-40" in answer.stderr

    nvml.write(Device(name="NVIDIA Unheard-of"))
    assert "`deploytool profiles detect` says why" in cli(verb, "all-minilm-l6-v2", env=nvml.env).stderr

    nvml.write()
    error = json.loads(cli(verb, "all-minilm-l6-v2", "--json", env=nvml.env).stdout)["error"]
    assert "--profile cpu" in error["hint"] and "shows no card" in error["hint"]
