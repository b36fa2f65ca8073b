"""A load on a deployment with a card: the real server and load, the card's driver stood in for.

The server computes on the processor (`--set device=cpu`); what the card says changes while the load runs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from stand_ins.nvml import Device, Nvml, Process

CommandLine = Callable[..., "CompletedProcess[str]"]
ROOT = Path(__file__).resolve().parent.parent
NAME = "on-a-card"


@pytest.fixture
def deployed(nvml: Nvml, cli: CommandLine, minilm_folder: Path) -> Iterator[dict[str, Any]]:
    """all-MiniLM-L6-v2 on the profile a10g."""
    up = ("up", "all-minilm-l6-v2", "--profile", "a10g", "--engine", "sentence-transformers", "--name", NAME)
    options = ("--dtype", "float32", "--set", "device=cpu", "--port", "auto", "--no-smoke", "--json")
    answer = cli(*up, *options, env=nvml.env)
    try:
        assert answer.returncode == 0, answer.stderr
        yield json.loads(answer.stdout)
    finally:
        assert cli("down", "--all").returncode == 0


def start_load(nvml: Nvml) -> subprocess.Popen[str]:
    """Two short cells, in a process of its own, whose progress can be read while it runs."""
    grid = ("--batch", "1,2", "--concurrency", "1", "--duration", "2s", "--warmup", "500ms", "--json")
    return subprocess.Popen(
        [sys.executable, "-m", "deploytool", "load", NAME, *grid],
        env={**os.environ, "PYTHONPATH": str(ROOT), **nvml.env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


@pytest.mark.slow
@pytest.mark.model
def test_rising_memory_is_a_peak_and_a_lost_card_ends_no_run(nvml: Nvml, deployed: dict[str, Any]) -> None:
    def holding(mib: int, **changes: Any) -> Device:
        processes = (Process(deployed["pid"], mib), Process(1, 500))
        return Device(used=mib + 500, processes=processes, **changes)

    nvml.write(holding(1000))
    with start_load(nvml) as load:
        assert load.stdout is not None and load.stderr is not None
        first = load.stderr.readline()
        assert "2 cells" in first
        nvml.write(holding(9000, utilisation=90, power=140_000))
        for line in load.stderr:
            if line.startswith("[1/2]"):
                nvml.write(holding(9000, power=None, fail={"nvmlDeviceGetMemoryInfo_v2": 15}))
        record = json.load(load.stdout)
    assert load.returncode == 0
    assert record["state"] == "finished"
    rising, lost = record["cells"]
    assert rising["requests"] > 0 and rising["errors"] == {}
    assert (rising["vram_peak_mib"], rising["vram_reason"]) == (9500, None)
    assert rising["power_peak_w"] == 140
    assert rising["rss_peak_mib"] > 100
    assert lost["requests"] > 0 and lost["errors"] == {}
    assert lost["vram_reason"].startswith("the card is lost")
    phases = {phase["phase"]: phase for phase in record["memory"]}
    assert phases["load b1 c1"]["vram_process_peak_mib"] == 9000
    assert "does not support" in phases["load b2 c1"]["missing"]["power_w"]
