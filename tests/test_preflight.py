"""What stands in the way of a launch is said before it, with its mend: real plans, stand-in cards."""

from __future__ import annotations

import json
from collections.abc import Callable
from subprocess import CompletedProcess
from typing import Any

import pytest
from stand_ins.nvml import Device, Nvml, Process

CommandLine = Callable[..., "CompletedProcess[str]"]

# Plans for real, then checks; `change` alters the plan or the profile to reach what real ones cannot here.
PROGRAM = """
import json, os, sys
from deploytool import preflight
from deploytool.catalog import Catalog
from deploytool.errors import DeploytoolError
from deploytool.plans import prepare
asked = json.loads(sys.argv[1])
catalog = Catalog()
prepared = prepare(asked["model"], asked["profile"], engine=asked["engine"], flags=asked["flags"],
                   catalog=catalog, verify=False)
plan, hardware = prepared.plan, prepared.hardware
memory = plan.memory.model_copy(update=asked["memory"])
prepared = prepared._replace(
    plan=plan.model_copy(update={"memory": memory}),
    hardware=hardware.model_copy(update=asked["hardware"]),
)
said = {"memory": memory.model_dump()}
try:
    said["warnings"] = preflight.check(prepared, gpus=asked["gpus"], profiles=catalog.hardware_profiles())
except DeploytoolError as error:
    said |= error.document()["error"]
print(json.dumps(said))
"""


@pytest.fixture(autouse=True)
def _no_cached_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Whatever this machine has of the hub: none of it, and the hub may be asked (nothing here asks it)."""
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)


def check(nvml: Nvml, profile: str = "a10g", **asked: Any) -> dict[str, Any]:
    """What preflight says: {"warnings"}, or the error's document."""
    defaults: dict[str, Any] = {
        "model": "qwen3-4b",
        "engine": "sentence-transformers",
        "flags": {},
        "gpus": None,
        "memory": {},
        "hardware": {},
    }
    said: dict[str, Any] = nvml.python(PROGRAM, json.dumps({"profile": profile, **defaults, **asked}))
    return said


def text(said: dict[str, Any]) -> str:
    """Everything that a person is told."""
    return "\n".join([said["message"], *said["details"], said["hint"]])


def test_nothing_is_said_where_nothing_stands_in_the_way(nvml: Nvml) -> None:
    assert check(nvml)["warnings"] == []


def test_without_a_card_everything_missing_is_said_at_once(nvml: Nvml) -> None:
    nvml.state.unlink()
    said = check(nvml, engine="sglang")
    assert said["exit_code"] == 8
    assert said["message"] == "2 things keep qwen3-4b from starting on a10g"
    assert "needs NVIDIA A10G" in text(said) and "kernel module is not loaded" in text(said)
    assert "modprobe" in text(said) and "--profile cpu" in text(said)
    assert "sglang is not installed" in text(said) and "deploytool[sglang]" in text(said)


def test_memory_that_others_hold_is_named_with_its_holder(nvml: Nvml) -> None:
    nvml.write(Device(used=20480, processes=(Process(4711, 20480, "/usr/bin/python3 train.py"),)))
    said = check(nvml)
    assert said["exit_code"] == 3
    assert "2,548 MiB free" in said["message"]
    assert "python3 (pid 4711) holds 20,480 MiB" in said["message"]
    assert "--skip-preflight" in said["hint"]


def test_what_is_missing_comes_before_what_does_not_fit(nvml: Nvml) -> None:
    nvml.write(Device(used=20480))
    said = check(nvml, engine="sglang")
    assert said["exit_code"] == 8
    assert "2,548 MiB free" in text(said) and "sglang is not installed" in text(said)


def test_holders_that_nvml_does_not_tell_leave_the_figure(nvml: Nvml) -> None:
    nvml.write(Device(used=20480, fail={"nvmlDeviceGetComputeRunningProcesses_v3": 4}))
    said = check(nvml)
    assert said["exit_code"] == 3 and "no permission" in said["message"]
    nvml.write(Device(used=20480))
    said = check(nvml)
    assert said["exit_code"] == 3 and "another machine" in said["hint"]


def test_room_below_the_upper_estimate_is_tight_and_a_shared_card_is_named(nvml: Nvml) -> None:
    memory = check(nvml)["memory"]
    free = int((memory["expected_mib"] + memory["upper_mib"]) / 2)
    nvml.write(Device(used=23028 - free, processes=(Process(4711, 900, "/usr/bin/python3"),)))
    tight, shared = check(nvml)["warnings"]
    assert tight.startswith("tight: GPU 0 NVIDIA A10G")
    assert "is shared: python3 (pid 4711) holds 900 MiB" in shared


def test_another_card_is_named_with_the_profile_to_take(nvml: Nvml) -> None:
    nvml.write(Device(name="NVIDIA GeForce RTX 4090", total=24564, cc="8.9"))
    said = check(nvml)
    assert said["exit_code"] == 8
    assert "GPU 0 NVIDIA GeForce RTX 4090 (24,564 MiB)" in said["message"]
    assert said["hint"] == "take --profile rtx4090"


def test_a_card_of_the_same_name_with_other_memory_is_not_taken(nvml: Nvml) -> None:
    small = Device(name="NVIDIA GeForce RTX 3060", total=8192)
    nvml.write(small)
    asked: dict[str, Any] = {"model": "all-minilm-l6-v2", "profile": "rtx3060-12gb"}
    said = check(nvml, **asked)
    assert said["exit_code"] == 8
    assert "11,919 to 12,288 MiB" in said["message"] and "(8,192 MiB)" in said["message"]
    assert "profiles detect" in said["hint"]
    nvml.write(small, small.but(total=12288, uuid="GPU-b"))
    assert check(nvml, **asked)["warnings"] == []


def test_a_card_that_cannot_be_read_says_why(nvml: Nvml) -> None:
    nvml.write(Device(fail={"nvmlDeviceGetHandleByIndex_v2": 15}))
    said = check(nvml)
    assert said["exit_code"] == 8 and "GPU 0 (not readable: the card is lost)" in said["message"]


def test_the_idle_card_is_looked_at_unless_another_is_asked_for(nvml: Nvml) -> None:
    busy = Device(used=22000, processes=(Process(4711, 22000, "/usr/bin/python3"),))
    nvml.write(busy, Device(uuid="GPU-b"))
    assert check(nvml)["warnings"] == []
    assert check(nvml, gpus=[1])["warnings"] == []
    said = check(nvml, gpus=[0])
    assert said["exit_code"] == 3 and "GPU 0" in said["message"]


def test_a_gpu_asked_for_must_be_here_and_of_the_profile(nvml: Nvml) -> None:
    nvml.write(Device(), Device(name="Tesla T4", total=15360, cc="7.5"))
    absent = check(nvml, gpus=[7])
    assert absent["exit_code"] == 8
    assert "there is no GPU 7" in absent["message"] and "--gpu takes 0, 1" in absent["hint"]
    other = check(nvml, gpus=[1])
    assert other["exit_code"] == 8
    assert "Tesla T4" in other["message"] and other["hint"] == "take --profile t4"


def test_tensor_parallelism_needs_as_many_cards(nvml: Nvml) -> None:
    two: dict[str, Any] = {"engine": "sglang", "flags": {"tensor_parallel": 2}}
    assert "only 1 of the profile a10g are here" in text(check(nvml, **two))
    nvml.write(Device(), Device(uuid="GPU-b"))
    assert "only" not in text(check(nvml, **two))
    assert "only 1 are named by --gpu" in text(check(nvml, gpus=[0], **two))
    assert "only 1 are named by --gpu" in text(check(nvml, gpus=[0, 0], **two))


def test_a_lower_compute_capability_than_the_profile_says_is_incompatible(nvml: Nvml) -> None:
    nvml.write(Device(cc="7.5"))
    said = check(nvml)
    assert said["exit_code"] == 4
    assert "compute capability 7.5" in said["message"] and "says 8.6" in said["message"]
    nvml.write(Device(fail={"nvmlDeviceGetCudaComputeCapability": 3}))
    assert check(nvml)["warnings"] == []


def test_mig_is_a_warning(nvml: Nvml) -> None:
    nvml.write(Device(mig=1))
    (warning,) = check(nvml)["warnings"]
    assert "MIG" in warning and "one slice" in warning


def test_unified_memory_is_compared_with_what_the_host_can_give(nvml: Nvml) -> None:
    nvml.write(Device(name="Orin (nvgpu)", total=None, used=None, cc="8.7", power=None))
    asked: dict[str, Any] = {"model": "all-minilm-l6-v2", "profile": "jetson-orin"}
    assert check(nvml, **asked)["warnings"] == []
    said = check(nvml, memory={"expected_mib": 1e9}, **asked)
    assert said["exit_code"] == 3 and "Orin (nvgpu)" in said["message"]
    (warning,) = check(nvml, hardware={"unified_memory": False}, **asked)["warnings"]
    assert "was not compared" in warning and "unified memory" in warning


def test_on_processors_the_host_memory_is_compared(nvml: Nvml) -> None:
    asked: dict[str, Any] = {"model": "all-minilm-l6-v2", "profile": "cpu"}
    assert check(nvml, **asked)["warnings"] == []
    said = check(nvml, memory={"expected_mib": 1e9, "upper_mib": 2e9}, **asked)
    assert said["exit_code"] == 3
    assert "1,000,000,000 MiB (up to 2,000,000,000)" in said["message"]


def test_files_that_are_not_here_are_said_with_the_rest(nvml: Nvml, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said = check(nvml)
    assert said["exit_code"] == 8
    assert "HF_HUB_OFFLINE" in said["message"] and "hf download" in said["hint"]


LIVE = """
import json, sys
from deploytool import preflight
from deploytool.catalog import Catalog
profile, gpus, count = json.loads(sys.argv[1])
hardware = Catalog().hardware(profile)
live = preflight.live(hardware, gpus=gpus, count=count)
print(json.dumps({
    "gpus": [gpu.index for gpu in live.gpus], "free_mib": live.free_mib, "reason": live.reason,
    "chosen": preflight.choose(hardware, count), "holders": preflight.holders(live),
}))
"""


def live(nvml: Nvml, profile: str, gpus: list[int] | None = None, count: int = 1) -> dict[str, Any]:
    said: dict[str, Any] = nvml.python(LIVE, json.dumps([profile, gpus, count]))
    return said


def test_live_memory_is_that_of_the_fullest_card_that_would_be_taken(nvml: Nvml) -> None:
    a10g = Device(used=1000, processes=(Process(9, 1000, "/bin/a"),))
    nvml.write(
        a10g, Device(name="Tesla T4"), a10g.but(used=0, processes=()), a10g.but(used=3000, reserved=28)
    )
    said = live(nvml, "a10g")
    assert (said["gpus"], said["free_mib"], said["chosen"]) == ([2, 0, 3], 23028, [2])
    assert said["holders"] == [
        "GPU 0 NVIDIA A10G (23,028 MiB): a (pid 9) holds 1,000 MiB",
        "GPU 3 NVIDIA A10G (23,028 MiB): a (pid 9) holds 1,000 MiB",
    ]
    assert live(nvml, "a10g", count=2)["free_mib"] == 22028
    assert live(nvml, "a10g", count=2)["chosen"] == [0, 2]
    assert live(nvml, "a10g", gpus=[0, 3], count=2)["free_mib"] == 20000


def test_live_says_why_it_knows_nothing(nvml: Nvml) -> None:
    few = live(nvml, "a10g", count=2)
    assert few["free_mib"] is None and "2 cards are needed" in few["reason"]
    other = live(nvml, "h100")
    assert (other["gpus"], other["free_mib"]) == ([], None) and "no card of the profile h100" in other[
        "reason"
    ]
    nvml.write(init=18)
    assert "different versions" in live(nvml, "a10g")["reason"]
    assert live(nvml, "cpu")["free_mib"] > 0


def test_detect_shows_the_cards_and_their_profiles(nvml: Nvml, cli: CommandLine) -> None:
    twin = Device(name="NVIDIA GeForce RTX 4060 Ti", total=16380, cc="8.9")
    nvml.write(Device(), twin, twin.but(total=8188))
    answer = cli("profiles", "detect", "--json", env=nvml.env)
    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout)["gpus"]
    assert [gpu["profiles"] for gpu in found] == [["a10g"], ["rtx4060ti-16gb"], []]
    shown = cli("profiles", "detect", env=nvml.env)
    assert shown.returncode == 0 and "NVIDIA A10G" in shown.stdout


def test_a_plan_is_compared_with_what_is_free_now(nvml: Nvml, cli: CommandLine) -> None:
    command = ("plan", "qwen3-4b", "--profile", "a10g", "--json")
    nvml.write(Device(used=20480))
    full = cli(*command, env=nvml.env)
    assert full.returncode == 3
    memory = json.loads(full.stdout)["memory"]
    assert memory["available_mib"] == 2548 and "NVML" in memory["available_from"]
    nvml.write(Device(used=28))
    idle = cli(*command, env=nvml.env)
    assert idle.returncode == 0
    assert json.loads(idle.stdout)["memory"]["available_mib"] == 23000


def test_the_consumer_alias_takes_the_card_that_is_here(nvml: Nvml, cli: CommandLine) -> None:
    command = ("plan", "qwen3-0.6b", "--profile", "consumer", "--json")
    nvml.write(Device(name="NVIDIA GeForce RTX 4090", total=24564, cc="8.9"))
    assert json.loads(cli(*command, env=nvml.env).stdout)["profile"] == "rtx4090"
    nvml.write(Device())
    none = cli(*command, env=nvml.env)
    assert none.returncode == 8
    assert "NVIDIA A10G" in none.stderr


def deployments(cli: CommandLine) -> Any:
    answer = cli("ps", "--json")
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


def test_up_without_a_card_starts_nothing_and_says_what_to_do(nvml: Nvml, cli: CommandLine) -> None:
    nvml.write(init=9)
    answer = cli("up", "qwen3-4b", "--profile", "a10g", "--json", env=nvml.env)
    assert answer.returncode == 8
    assert json.loads(answer.stdout)["error"]["code"] == "not_available"
    assert "needs NVIDIA A10G" in answer.stderr and "not loaded" in answer.stderr
    assert "--profile cpu" in answer.stderr
    assert deployments(cli) == []


def test_up_on_a_full_card_names_who_holds_it_and_starts_nothing(nvml: Nvml, cli: CommandLine) -> None:
    nvml.write(Device(used=20480, processes=(Process(4711, 20480, "/usr/bin/python3 train.py"),)))
    answer = cli("up", "qwen3-4b", "--profile", "a10g", env=nvml.env)
    assert answer.returncode == 3
    assert "free the card of what holds its memory" in answer.stderr
    assert "python3 (pid 4711) holds 20,480 MiB" in answer.stderr
    assert deployments(cli) == []
    planned = cli("plan", "qwen3-4b", "--profile", "a10g", env=nvml.env)
    assert planned.returncode == 3 and "python3 (pid 4711) holds 20,480 MiB" in planned.stderr
