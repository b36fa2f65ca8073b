"""The door to NVML, against the stand-in driver: the real nvidia-ml-py speaks NVML's C interface to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from stand_ins.nvml import Device, Nvml, Process

from deploytool.telemetry import nvml_errors

DETECT = "from deploytool.telemetry.nvml import detect; print(detect().model_dump_json())"


def card(nvml: Nvml, device: Device) -> dict[str, Any]:
    """What detect() says of one such card."""
    nvml.write(device)
    found: dict[str, Any] = nvml.python(DETECT)["gpus"][0]
    return found


def test_a_card_is_described_in_full(nvml: Nvml) -> None:
    device = Device(
        used=2048,
        reserved=300,
        processes=(
            Process(78, 500, "/usr/lib/xorg/Xorg", kind="graphics"),
            Process(77, 1500, "/opt/venv/bin/python3 serve.py --token hunter2"),
            Process(77, 1500, "/opt/venv/bin/python3", kind="graphics"),
        ),
    )
    assert card(nvml, device) == {
        "index": 0,
        "uuid": "GPU-00000000-0000-0000-0000-00000000000a",
        "name": "NVIDIA A10G",
        "memory_total_mib": 23028,
        "memory_used_mib": 2048,
        "memory_free_mib": 23028 - 2048 - 300,
        "memory_reserved_mib": 300,
        "memory_source": "v2",
        "compute_capability": "8.6",
        "driver_version": "570.86.15",
        "processes": [
            {"pid": 77, "name": "python3", "memory_mib": 1500},
            {"pid": 78, "name": "Xorg", "memory_mib": 500},
        ],
        "mig": False,
        "problems": {},
    }


def test_memory_is_told_from_what_the_driver_reserves_on_drivers_that_count_it_as_used(nvml: Nvml) -> None:
    found = card(nvml, Device(used=1000, reserved=300, inclusive=1))
    assert (found["memory_used_mib"], found["memory_free_mib"]) == (1000, 23028 - 1300)


def test_an_old_driver_answers_by_memory_version_1_and_the_reading_says_so(old_nvml: Nvml) -> None:
    found = card(old_nvml, Device(used=1000, reserved=300, processes=(Process(5, 900, "/bin/a"),)))
    assert found["memory_source"] == "v1"
    assert found["memory_used_mib"] == 1300
    assert found["memory_reserved_mib"] is None
    assert "too old" in found["problems"]["memory_reserved_mib"]
    assert found["processes"] == [{"pid": 5, "name": "a", "memory_mib": 900}]


def test_what_a_card_does_not_support_is_none_with_the_reason(nvml: Nvml) -> None:
    orin = card(nvml, Device(name="Orin (nvgpu)", total=None, used=None, cc="8.7"))
    assert orin["name"] == "Orin (nvgpu)"
    assert orin["memory_total_mib"] is None and orin["memory_free_mib"] is None
    assert "unified memory" in orin["problems"]["memory_free_mib"]


def test_a_process_without_a_memory_count_is_none_not_zero(nvml: Nvml) -> None:
    found = card(nvml, Device(processes=(Process(9, None, "C:/app.exe"),)))
    assert found["processes"] == [{"pid": 9, "name": "app.exe", "memory_mib": None}]


def test_a_process_whose_name_cannot_be_had_is_still_listed(nvml: Nvml) -> None:
    found = card(nvml, Device(processes=(Process(9, 10),)))
    assert found["processes"] == [{"pid": 9, "name": None, "memory_mib": 10}]
    nvml.state.write_bytes(nvml.state.read_bytes().replace(b"process 9 10 ", b"process 9 10 /bin/\xff\xfe"))
    assert nvml.python(DETECT)["gpus"][0]["processes"][0] == {"pid": 9, "name": None, "memory_mib": 10}


def test_a_lost_card_does_not_hide_the_others(nvml: Nvml) -> None:
    lost = Device(uuid="GPU-b", fail={"nvmlDeviceGetHandleByIndex_v2": 15})
    nvml.write(Device(), lost, Device(uuid="GPU-c"))
    gpus = nvml.python(DETECT)["gpus"]
    assert [gpu["name"] for gpu in gpus] == ["NVIDIA A10G", None, "NVIDIA A10G"]
    assert gpus[1]["problems"]["name"] == gpus[1]["problems"]["memory_total_mib"] == "the card is lost"


def test_a_single_refused_question_leaves_the_rest(nvml: Nvml) -> None:
    found = card(nvml, Device(fail={"nvmlDeviceGetComputeRunningProcesses_v3": 4, "nvmlDeviceGetUUID": 424}))
    assert found["processes"] is None and "no permission" in found["problems"]["processes"]
    assert found["uuid"] is None and found["problems"]["uuid"] == "NVML error 424"
    assert found["memory_total_mib"] == 23028


def test_mig_is_seen(nvml: Nvml) -> None:
    assert card(nvml, Device(mig=1))["mig"] is True
    refused = card(nvml, Device(mig=1, fail={"nvmlDeviceGetMigMode": 4}))
    assert refused["mig"] is None and "no permission" in refused["problems"]["mig"]


def test_cuda_visible_devices_hides_no_card_from_nvml(nvml: Nvml) -> None:
    nvml.write(Device(), Device(uuid="GPU-b"))
    found = nvml.python(f"import os; os.environ['CUDA_VISIBLE_DEVICES'] = '1'\n{DETECT}")
    assert [gpu["index"] for gpu in found["gpus"]] == [0, 1]


EVERY_START = """
import json, os
from pathlib import Path
from deploytool.telemetry.nvml import detect
state = Path(os.environ["NVML_STAND_IN_STATE"])
found = {}
for code in (4, 9, 13, 15, 17, 18, 20, 424, 999):
    state.write_text(f"init {code}\\n")
    found[code] = detect().model_dump()
state.write_text("init 0\\ndevice\\nname NVIDIA T4\\n")
found["after"] = detect().model_dump()
print(json.dumps(found))
"""


def test_every_failed_start_has_a_reason_and_a_mend_of_its_own_and_is_not_remembered(nvml: Nvml) -> None:
    found = nvml.python(EVERY_START)
    assert found.pop("after")["gpus"][0]["name"] == "NVIDIA T4"
    assert all(entry["gpus"] == [] and entry["reason"] and entry["mend"] for entry in found.values())
    assert len({entry["reason"] for entry in found.values()}) == len(found)
    said = {code: f"{entry['reason']} | {entry['mend']}" for code, entry in found.items()}
    assert "may not open" in said["4"] and "/dev/nvidia" in said["4"]
    assert "not loaded" in said["9"] and "modprobe" in said["9"]
    assert "different versions" in said["18"] and "reboot" in said["18"]
    assert "lost" in said["15"]
    assert "424" in said["424"]
    assert "unknown error" in said["999"] and "container" in said["999"]


def test_a_machine_without_a_driver_says_so(tmp_path: Path) -> None:
    (tmp_path / "libnvidia-ml.so.1").write_text("no library")
    answer = subprocess.run(
        [sys.executable, "-c", DETECT],
        env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(answer.stdout)
    assert found["gpus"] == []
    assert "no NVIDIA driver" in found["reason"]
    assert found["mend"]


def test_on_wsl_the_mend_names_its_folder(tmp_path: Path) -> None:
    assert "LD_LIBRARY_PATH" in nvml_errors.start_failure(12, tmp_path)[1]
    assert "LD_LIBRARY_PATH" not in nvml_errors.start_failure(12, tmp_path / "none")[1]


@pytest.mark.parametrize(
    ("fail", "said"), [({}, "shows no card"), ({"nvmlDeviceGetCount_v2": 999}, "cannot count the cards")]
)
def test_a_driver_without_cards_says_so(nvml: Nvml, fail: dict[str, int], said: str) -> None:
    nvml.write(fail=fail)
    found = nvml.python(DETECT)
    assert found["gpus"] == []
    assert said in found["reason"]
    assert found["mend"]
