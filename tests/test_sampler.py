"""The memory sampler on real processes and the stand-in driver, whose state changes while it samples."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from stand_ins.nvml import Device, Nvml, Process

from deploytool import samples
from deploytool.telemetry.sampler import MemorySampler

# Samples in a process of its own, since the driver's library is found when a process starts. Each line of
# input names a phase, answered when three more readings of it are there; the end of input ends it.
PROGRAM = """
import json, sys, time
from deploytool.telemetry.sampler import MemorySampler
options = json.loads(sys.argv[1])
sampler = MemorySampler(options["pid"], options["devices"], 0.02)
started = False
for line in sys.stdin:
    phase = line.strip()
    goal = sampler.peak(phase).samples + 3
    sampler.phase(phase) if started else sampler.start(phase)
    started = True
    while sampler.peak(phase).samples < goal and sampler.failure is None:
        time.sleep(0.005)
    print(json.dumps([phase, sampler.peak(phase).vram_peak_mib]), flush=True)
sampler.stop()
print(json.dumps({
    "phases": {entry.phase: entry.model_dump() for entry in sampler.summary()},
    "rows": sampler.rows(), "gaps": sampler.gaps(), "cost_us": sampler.cost_us, "failure": sampler.failure,
}))
"""
SERVER = "import sys; held = b'x' * (64 << 20); print(1, flush=True); sys.stdin.read()"


class Sampling:
    """A running sampler process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def phase(self, name: str) -> float | None:
        """Enter a phase and wait until it has more readings; returns its peak of GPU memory so far."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(name + "\n")
        self.process.stdin.flush()
        phase, peak = json.loads(self.process.stdout.readline())
        assert phase == name
        return None if peak is None else float(peak)

    def finish(self) -> dict[str, Any]:
        out, _ = self.process.communicate(timeout=60)
        assert self.process.returncode == 0
        found: dict[str, Any] = json.loads(out)
        assert found["failure"] is None
        return found


@contextmanager
def sampling(nvml: Nvml, *, pid: int | None, devices: Sequence[int] | None) -> Iterator[Sampling]:
    with nvml.start(PROGRAM, json.dumps({"pid": pid, "devices": devices})) as process:
        try:
            yield Sampling(process)
        finally:
            process.kill()


@pytest.fixture
def server() -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds 64 MiB, in the place of a server."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_memory_that_rises_during_a_phase_is_its_peak(nvml: Nvml, server: subprocess.Popen[bytes]) -> None:
    def taken(mib: int, **changes: Any) -> Device:
        return Device(used=mib + 100, reserved=400, processes=(Process(server.pid, mib),), **changes)

    nvml.write(Device(reserved=400))
    with sampling(nvml, pid=server.pid, devices=[0]) as sampler:
        sampler.phase("idle")
        nvml.write(taken(2000))
        sampler.phase("loaded")
        nvml.write(taken(9000, utilisation=98, power=212_500))
        sampler.phase("load b8 c4")
        nvml.write(taken(3000, utilisation=98, power=100_000))
        sampler.phase("load b8 c4")
        found = sampler.finish()
    idle, loaded, load = found["phases"].values()
    assert list(found["phases"]) == ["idle", "loaded", "load b8 c4"]
    assert idle["vram_peak_mib"] == 0 and idle["vram_reason"] is None
    assert idle["vram_process_peak_mib"] is None and "host pids" in idle["missing"]["vram_process_mib"]
    assert (loaded["vram_peak_mib"], loaded["vram_process_peak_mib"]) == (2100, 2000)
    assert (load["vram_peak_mib"], load["vram_process_peak_mib"]) == (9100, 9000)
    assert load["power_peak_w"] == 212.5
    assert load["utilisation_percent"] == 98
    assert load["rss_peak_mib"] > 64
    assert load["samples"] >= 3 and load["missing"] == {}


def test_only_processes_of_the_server_are_attributed_to_it(
    nvml: Nvml, server: subprocess.Popen[bytes]
) -> None:
    others = Process(os.getpid(), 5000)
    nvml.write(
        Device(used=7000, processes=(Process(server.pid, 1500), others)),
        Device(used=5000, uuid="GPU-b", processes=(others,)),
    )
    with sampling(nvml, pid=server.pid, devices=None) as sampler:
        sampler.phase("load")
        found = sampler.finish()
    load = found["phases"]["load"]
    assert load["vram_peak_mib"] == 12000
    assert load["vram_process_peak_mib"] == 1500
    assert {row["device"]: row["vram_process_mib"] for row in found["rows"]} == {0: 1500, 1: 0}


def test_processes_without_a_memory_count_are_not_summed(nvml: Nvml, server: subprocess.Popen[bytes]) -> None:
    nvml.write(Device(used=700, processes=(Process(server.pid, None),)))
    with sampling(nvml, pid=server.pid, devices=[0]) as sampler:
        sampler.phase("load")
        load = sampler.finish()["phases"]["load"]
    assert load["vram_peak_mib"] == 700
    assert load["vram_process_peak_mib"] is None
    assert "WSL2" in load["missing"]["vram_process_mib"]


def test_a_card_lost_in_the_middle_ends_nothing_and_is_said(nvml: Nvml) -> None:
    here, lost = Device(used=4000), Device(used=4000, uuid="GPU-b")
    gone = lost.but(fail=dict.fromkeys(("nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetPowerUsage"), 15))
    nvml.write(here, lost)
    with sampling(nvml, pid=None, devices=[0, 1]) as sampler:
        sampler.phase("before")
        nvml.write(here, gone)
        sampler.phase("half")
        sampler.phase("without")
        nvml.write(here, lost)
        sampler.phase("half")
        found = sampler.finish()
    before, half, without = found["phases"].values()
    assert (before["vram_peak_mib"], before["vram_reason"]) == (8000, None)
    # One card's memory alone is not what the server takes: no sum, and the reason.
    assert (without["vram_peak_mib"], without["vram_reason"]) == (None, "the card is lost")
    assert without["power_peak_w"] is None and without["missing"]["power_w"] == "the card is lost"
    assert half["vram_peak_mib"] == 8000
    assert half["vram_reason"].startswith("the card is lost (in ")
    rows = [row for row in found["rows"] if row["phase"] == "without"]
    assert {row["vram_used_mib"] for row in rows if row["device"] == 0} == {4000}
    assert {row["vram_used_mib"] for row in rows if row["device"] == 1} == {None}


def test_what_is_refused_or_unsupported_leaves_the_rest(nvml: Nvml, server: subprocess.Popen[bytes]) -> None:
    nvml.write(
        Device(used=900, power=None, utilisation=None, fail={"nvmlDeviceGetComputeRunningProcesses_v3": 4})
    )
    with sampling(nvml, pid=server.pid, devices=[0]) as sampler:
        sampler.phase("load")
        load = sampler.finish()["phases"]["load"]
    assert load["vram_peak_mib"] == 900 and load["rss_peak_mib"] > 64
    assert load["power_peak_w"] is None and load["utilisation_percent"] is None
    assert "no permission" in load["missing"]["vram_process_mib"]
    assert "does not support" in load["missing"]["power_w"]
    assert "does not support" in load["missing"]["utilisation_percent"]


def test_unified_memory_has_no_figure_and_says_why(nvml: Nvml) -> None:
    nvml.write(Device(name="Orin (nvgpu)", total=None, used=None))
    with sampling(nvml, pid=None, devices=[0]) as sampler:
        sampler.phase("load")
        load = sampler.finish()["phases"]["load"]
    assert load["vram_peak_mib"] is None
    assert "unified memory" in load["vram_reason"]


def test_sampling_goes_on_when_the_server_dies(nvml: Nvml, server: subprocess.Popen[bytes]) -> None:
    nvml.write(Device(used=1600, processes=(Process(server.pid, 1500),)))
    with sampling(nvml, pid=server.pid, devices=[0]) as sampler:
        sampler.phase("alive")
        server.kill()
        server.wait()
        nvml.write(Device(used=10))
        sampler.phase("dead")
        found = sampler.finish()
    alive, dead = found["phases"].values()
    assert alive["rss_peak_mib"] > 64 and alive["vram_process_peak_mib"] == 1500
    assert dead["vram_peak_mib"] == 10
    assert dead["rss_peak_mib"] is None
    assert dead["missing"]["rss_mib"] == f"the server's process {server.pid} is gone"
    assert "process is gone" in dead["missing"]["vram_process_mib"]


def test_a_driver_that_comes_later_is_found(nvml: Nvml) -> None:
    nvml.write(init=9)
    with sampling(nvml, pid=None, devices=None) as sampler:
        sampler.phase("without")
        nvml.write(Device(used=50))
        while sampler.phase("with") is None:
            pass  # the driver is asked again once a second
        found = sampler.finish()["phases"]
    assert found["without"]["vram_peak_mib"] is None and "not loaded" in found["without"]["vram_reason"]
    assert found["with"]["vram_peak_mib"] == 50


def test_a_driver_without_cards_gives_the_reason(nvml: Nvml) -> None:
    nvml.write()
    with sampling(nvml, pid=None, devices=None) as sampler:
        sampler.phase("load")
        found = sampler.finish()
    assert "no card" in found["phases"]["load"]["vram_reason"]
    assert found["rows"][0]["device"] is None


def test_a_stalled_machine_leaves_a_gap_in_the_record(nvml: Nvml) -> None:
    with sampling(nvml, pid=None, devices=[0]) as sampler:
        sampler.phase("smooth")
        sampler.phase("stalled")
        sampler.process.send_signal(signal.SIGSTOP)
        while psutil.Process(sampler.process.pid).status() != psutil.STATUS_STOPPED:
            pass
        with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.2)"]):
            pass
        sampler.process.send_signal(signal.SIGCONT)
        sampler.phase("stalled")
        found = sampler.finish()
    assert max(milliseconds for _, milliseconds in found["gaps"]) > 200
    assert found["phases"]["stalled"]["gap_max_ms"] > 200
    times = [row["time_ns"] for row in found["rows"]]
    assert times == sorted(times)


def test_without_cards_the_process_tree_is_sampled_and_the_rows_are_parquet(
    server: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    with MemorySampler(server.pid, (), no_devices_reason="the server runs on the CPU") as sampler:
        sampler.phase("load")
        while sampler.peak("load").samples < 2:
            pass
    sampler.stop()
    load = sampler.peak("load")
    assert load.vram_peak_mib is None and load.vram_reason == "the server runs on the CPU"
    assert load.rss_peak_mib is not None and load.rss_peak_mib > 64
    assert sampler.cost_us is not None
    rows = sampler.rows()
    assert set(rows[0]) == set(samples.MEMORY)
    assert samples.write(tmp_path / "memory.parquet", samples.MEMORY, rows) == len(rows)
    assert samples.read(tmp_path / "memory.parquet") == rows


def test_a_phase_that_never_began_has_no_samples_and_says_so() -> None:
    sampler = MemorySampler(None, ())
    sampler.stop()
    assert sampler.rows() == [] and sampler.summary() == [] and sampler.cost_us is None
    never = sampler.peak("load")
    assert never.samples == 0
    assert never.vram_peak_mib is None and never.vram_reason == "no reading fell into this phase"


def test_a_sampler_that_fails_says_so_and_ends_nothing(nvml: Nvml) -> None:
    failing = PROGRAM.replace("options[", "{'pid': None, 'devices': ['zero']}[")
    with nvml.start(failing, "{}") as process:
        out, _ = process.communicate("load\n", timeout=60)
    assert process.returncode == 0
    found = json.loads(out.splitlines()[-1])
    assert "the memory sampler failed: " in found["failure"]
    assert found["phases"]["load"]["vram_reason"] == found["failure"]


def test_a_sampler_that_dies_leaves_a_gap_up_to_now(server: subprocess.Popen[bytes]) -> None:
    """There is no later reading that could tell it; validity is judged by the gap."""

    class Dying(MemorySampler):
        def read(self) -> None:
            if len(self.rows()) == 3:
                raise RuntimeError("the driver broke")
            super().read()

    sampler = Dying(server.pid, ())
    sampler.start("load")
    while sampler.failure is None or (sampler.peak("another cell").gap_max_ms or 0) < 400:
        time.sleep(0.01)  # what it measures must not wait for this thread
    load, later = sampler.peak("load"), sampler.peak("another cell")
    sampler.stop()
    assert load.samples == 3
    assert load.missing["rss_mib"] == "the memory sampler failed: RuntimeError: the driver broke"
    assert load.rss_peak_mib is not None, "what was read stays"
    assert (later.samples, later.rss_peak_mib) == (0, None)
    assert later.gap_max_ms is not None
    assert later.gap_max_ms >= 400


def test_a_driver_that_hangs_does_not_hang_the_end(nvml: Nvml) -> None:
    with nvml.start(PROGRAM, json.dumps({"pid": None, "devices": [0]})) as process:
        sampler = Sampling(process)
        sampler.phase("load")
        nvml.write(Device(used=7), slow={"nvmlDeviceGetMemoryInfo_v2": 3_600_000})
        out, _ = process.communicate(timeout=60)
    found = json.loads(out)
    assert process.returncode == 0
    assert "no answer" in found["failure"]
    assert len(found["rows"]) >= 3
    assert found["phases"]["load"]["vram_peak_mib"] is not None
    assert found["phases"]["load"]["vram_reason"] == found["failure"]


def test_one_reading_can_be_taken_without_a_thread(nvml: Nvml, server: subprocess.Popen[bytes]) -> None:
    nvml.write(Device(used=900, processes=(Process(server.pid, 800),)))
    found = nvml.python(
        "import sys; from deploytool.telemetry.sampler import read_now;"
        "print(read_now(int(sys.argv[1]), [0]).model_dump_json())",
        str(server.pid),
    )
    assert (found["vram_peak_mib"], found["vram_process_peak_mib"], found["samples"]) == (900, 800, 1)
    assert found["rss_peak_mib"] > 64


def test_misuse_is_refused() -> None:
    for interval in (0, -1, 0.2):
        with pytest.raises(ValueError, match="interval_s"):
            MemorySampler(None, (), interval)
    with MemorySampler(None, ()) as sampler, pytest.raises(RuntimeError, match="started before"):
        sampler.start()
