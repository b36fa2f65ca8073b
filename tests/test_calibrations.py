"""Measured memory: what it corrects, how it is kept and shared, and the real commands on a stood-in card."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stand_ins.nvml import Device, Nvml

from deploytool import calibrations
from deploytool.calibrations.learning import from_load, from_start
from deploytool.catalog import Catalog
from deploytool.engines import ENGINES
from deploytool.errors import InvalidFile
from deploytool.launch import LaunchSpec, Readiness
from deploytool.memory import Range
from deploytool.memory.measured import Measured, correction
from deploytool.planning import PlanRequest
from deploytool.records import Cell, Deployment, Latency, PhaseMemory, RunRecord, Target

CommandLine = Callable[..., "CompletedProcess[str]"]
ROOT = Path(__file__).resolve().parent.parent
MODEL = "all-minilm-l6-v2"


def measured(**changes: Any) -> Measured:
    return Measured.model_validate(
        {
            "model": MODEL, "engine": "sentence-transformers", "engine_version": "5.1.0",
            "card": "NVIDIA A10G", "card_mib": 23028, "dtype": "float32", "weights_mib": 87,
            "rest_mib": 762, "work_mib": 200, "loaded_mib": 900, "figure": "process", "source": "start",
            "deployment": "a", "at": "2030-01-01T00:00:00+00:00", **changes,
        }
    )  # fmt: skip


def corrected(*entries: Measured) -> Range:
    found = correction(entries, dtype="float32", tensor_parallel=1)
    assert found is not None
    return found.apply(Range(500, 762, 1000), Range(100, 200, 300))


# What measurements correct


def test_a_start_shifts_what_is_held_at_rest() -> None:
    need = corrected(measured())
    assert need.expected == 900 + 200
    assert need.lower == pytest.approx(900 * 0.98 + 100)
    assert need.upper == pytest.approx(900 * 1.02 + 300)


def test_a_full_load_scales_the_work() -> None:
    need = corrected(measured(source="load", peak_mib=1000, full=True))
    assert need.expected == pytest.approx(1000)
    assert need.upper == pytest.approx(900 * 1.02 + 200 * 0.5 * 1.1)


def test_a_small_load_may_raise_an_estimate_and_never_lowers_it() -> None:
    assert corrected(measured(source="load", peak_mib=910)).expected == 900 + 200
    assert corrected(measured(source="load", peak_mib=1400)).expected == 900 + 500


def test_several_runs_give_their_middle_and_their_spread() -> None:
    entries = [
        measured(deployment=name, loaded_mib=mib) for name, mib in (("a", 880), ("b", 900), ("c", 940))
    ]
    need = corrected(*entries)
    assert need.expected == 900 + 200
    assert need.upper == pytest.approx(940 * 1.02 + 300)
    found = correction(entries, dtype="float32", tensor_parallel=1)
    assert found is not None and found.said.startswith("calibrated by 3 runs on this card")


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "float16"},
        {"tensor_parallel": 2},
        {"quantization": "fp8"},
        {"loaded_mib": 50},
        {"peak_mib": 600},
    ],
)
def test_what_is_of_another_server_or_cannot_be_corrects_nothing(change: dict[str, Any]) -> None:
    assert correction([measured(**change)], dtype="float32", tensor_parallel=1) is None


@given(
    loaded=st.lists(st.floats(90, 5000), min_size=1, max_size=5),
    peaks=st.lists(st.floats(0, 5000), min_size=1, max_size=5),
    full=st.booleans(),
)
def test_a_corrected_range_is_a_range(loaded: list[float], peaks: list[float], full: bool) -> None:
    entries = [
        measured(loaded_mib=held, peak_mib=held + more, full=full, deployment=str(index))
        for index, (held, more) in enumerate(zip(loaded, peaks, strict=False))
    ]
    need = corrected(*entries)
    assert need.lower <= need.expected + 1e-6 and need.expected <= need.upper + 1e-6
    assert need.expected >= min(loaded) - 1e-6


def test_a_plan_uses_what_was_measured_and_says_so() -> None:
    catalog, engine = Catalog(), ENGINES["sglang"]
    card, hardware = catalog.model("qwen3-0.6b"), catalog.hardware("a10g")
    plain = engine.plan(card, hardware, PlanRequest()).memory
    assert plain.rest_mib is not None and plain.work_mib is not None and plain.calibration == ""
    entry = measured(
        model=card.name, engine="sglang", dtype="bfloat16", weights_mib=plain.weights_mib,
        rest_mib=plain.rest_mib, work_mib=plain.work_mib, loaded_mib=plain.rest_mib + 700,
        peak_mib=plain.rest_mib + 700 + 2 * plain.work_mib, full=True, source="load",
    )  # fmt: skip
    again = engine.plan(card, hardware, PlanRequest(measured=(entry,))).memory
    assert again.expected_mib == pytest.approx(plain.rest_mib + 700 + 2 * plain.work_mib, abs=1)
    assert "calibrated by 1 run on this card: +700 MiB at rest, 2.00 x the expected work" in again.calibration
    assert again.rest_mib == plain.rest_mib  # by formula alone: the next measurement is held to the same


# Keeping and sharing


def test_what_is_kept_comes_back_once(home: Path) -> None:
    entries = [measured(), measured(source="load", peak_mib=1000)]
    assert calibrations.add(entries) == 2
    assert calibrations.add([*entries, measured(deployment="b")]) == 1
    assert len(calibrations.kept().entries) == 3
    path = home / "data" / calibrations.FILE
    assert path.stat().st_mode & 0o077 == 0


def test_a_line_that_was_cut_off_costs_only_itself(home: Path) -> None:
    calibrations.add([measured()])
    path = home / "data" / calibrations.FILE
    path.write_text(path.read_text(encoding="utf-8") + '{"schema_version": 1, "mod', encoding="utf-8")
    calibrations.add([measured(deployment="b")])
    kept = calibrations.kept()
    assert [entry.deployment for entry in kept.entries] == ["a", "b"] and kept.unreadable == 1


def test_only_this_model_engine_version_and_card_count() -> None:
    hardware = Catalog().hardware("a10g")
    entries = [
        measured(),
        measured(model="other"),
        measured(engine="sglang"),
        measured(engine_version="6.0.0"),
        measured(card="NVIDIA A10"),
        measured(card_mib=8192),
    ]
    for versions in (("5.1.0",), ("5",)):
        found = calibrations.of_server(
            entries, model=MODEL, engine="sentence-transformers", versions=versions, hardware=hardware
        )
        assert found == (entries[0],)


def test_an_exported_file_is_imported_elsewhere(cli: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "shared.json"
    calibrations.add([measured()])
    assert cli("calibrations", "export", str(file)).returncode == 0
    other = {"DEPLOYTOOL_HOME": str(tmp_path / "other")}
    for added in (1, 0):
        answer = cli("calibrations", "import", str(file), "--json", env=other)
        assert answer.returncode == 0, answer.stderr
        assert json.loads(answer.stdout) == {"measurements": 1, "added": added}
    listed = json.loads(cli("calibrations", "list", "--json", env=other).stdout)
    assert [entry["model"] for entry in listed] == [MODEL]
    assert MODEL in cli("calibrations", "list", env=other).stdout


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("no json", "is not JSON"),
        ("{}", "kind: expected 'deploytool-calibrations'"),
        ('{"kind": "deploytool-calibrations", "schema_version": 9}', "schema_version: expected 1, got 9"),
        ('{"kind": "deploytool-calibrations", "schema_version": 1, "calibrations": 3}', "expected a list"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "shared.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(InvalidFile) as caught:
        calibrations.read_export(file)
    assert said in "\n".join(caught.value.details)


def test_all_problems_of_a_file_are_told_and_nothing_is_imported(cli: CommandLine, tmp_path: Path) -> None:
    entries = [measured().model_dump(), measured(loaded_mib=50).model_dump(), {"model": "x", "colour": 1}]
    file = tmp_path / "shared.json"
    document = {"kind": calibrations.KIND, "schema_version": 1, "calibrations": entries}
    file.write_text(json.dumps(document), encoding="utf-8")
    answer = cli("calibrations", "import", str(file))
    assert answer.returncode == 2
    for said in (
        "calibrations[1]",
        "less than the weights",
        "calibrations[2].colour",
        "calibrations[2].engine",
    ):
        assert said in answer.stderr
    assert calibrations.kept().entries == ()
    assert cli("calibrations", "import", str(tmp_path / "none.json")).returncode == 2


# What a start and a load tell


def deployed(**memory: Any) -> Deployment:
    estimate = {"rest_mib": 762, "work_mib": 200, "weights_mib": 87}
    values = [{"name": "max_batch_tokens", "value": 1024}, {"name": "max_length", "value": 256}]
    return Deployment.model_validate(
        {
            "id": "d1", "name": "d", "engine": "sentence-transformers", "runtime": "process",
            "profile": "a10g", "model": MODEL, "state": "ready", "created_at": "2030-01-01T00:00:00+00:00",
            "launch": LaunchSpec(
                engine="sentence-transformers", engine_version="5.1.0", argv=("x",), model=MODEL,
                model_path="/m", host="127.0.0.1", port=1, devices=(0,),
                readiness=Readiness(path="/ready", probe_timeout_s=1, start_timeout_s=1),
            ),
            "plan": {"dtype": "float32", "values": values},
            "memory": {
                "estimate": estimate, "card": {"name": "NVIDIA A10G", "total_mib": 23028.0},
                "vram_before_mib": 500.0, "vram_used_mib": 1500.0, "vram_process_mib": None, **memory,
            },
        }
    )  # fmt: skip


def loaded(*, tokens_per_s: float, batch: int = 2, concurrency: int = 4, peak: float = 2000) -> RunRecord:
    cell = Cell(
        batch=batch, concurrency=concurrency, requests=10, duration_s=1, qps=10, texts_per_s=20,
        tokens_per_s=tokens_per_s, latency_ms=Latency(),
    )  # fmt: skip
    phases = [
        PhaseMemory(phase="loaded", vram_peak_mib=1500),
        PhaseMemory(phase="load b2 c4", vram_peak_mib=peak),
    ]
    return RunRecord(
        id="r1", state="finished", started_at="2030-01-01T00:00:00+00:00", request={}, cells=[cell],
        memory=phases, target=Target(url="http://x", model=MODEL),
    )  # fmt: skip


def test_a_start_is_measured_by_its_processes_or_by_what_the_card_holds_more() -> None:
    card = from_start(deployed()).entry
    assert card is not None and (card.loaded_mib, card.figure) == (1000, "card")
    own = from_start(deployed(vram_process_mib=1100.0)).entry
    assert own is not None and (own.loaded_mib, own.figure) == (1100, "process")


def test_a_start_that_warmed_up_has_measured_a_full_forward_pass() -> None:
    entry = from_start(deployed(vram_process_mib=1100.0, warmed_mib=180.0)).entry
    assert entry is not None and entry.full
    assert (entry.loaded_mib, entry.peak_mib) == (920, 1100)
    need = corrected(entry)
    assert need.expected == pytest.approx(1100) and need.lower < 1100 < need.upper
    more = from_load(
        deployed(vram_process_mib=1100.0, warmed_mib=180.0, vram_used_mib=1600.0), loaded(tokens_per_s=1)
    )
    assert more.entry is None and "no cell" in more.reason  # the load's figures are of the card, not of it


@pytest.mark.parametrize(
    ("memory", "said"),
    [
        ({"vram_before_mib": None, "vram_reason": "no driver"}, "no driver"),
        ({"warmed_mib": 2000.0}, "less than the 2,000 MiB"),
        ({"vram_used_mib": 520.0}, "less than the weights"),
        ({"vram_used_mib": 500.0}, "no more than before"),
        ({"vram_used_mib": 100.0}, "no more than before"),
        ({"card": {}}, "not recorded"),
    ],
)
def test_a_start_that_tells_nothing_says_why(memory: dict[str, Any], said: str) -> None:
    learned = from_start(deployed(**memory))
    assert learned.entry is None and said in learned.reason


def test_only_long_texts_that_fill_a_forward_pass_count_as_full() -> None:
    filled = from_load(deployed(), loaded(tokens_per_s=10 * 2 * 250)).entry
    assert filled is not None and filled.full and filled.peak_mib == 1500
    short = from_load(deployed(), loaded(tokens_per_s=10 * 2 * 20)).entry
    assert short is not None and not short.full
    few = from_load(deployed(), loaded(tokens_per_s=10 * 2 * 250, concurrency=1)).entry
    assert few is not None and not few.full
    assert from_load(deployed(), loaded(tokens_per_s=1, peak=700)).entry is None


# The real commands, on a card that is stood in for


def following(nvml: Nvml, arguments: tuple[str, ...], used: dict[str, int]) -> dict[str, Any]:
    """Run a command to its end; where a line of its progress begins so, the card holds that many MiB."""
    with subprocess.Popen(
        [sys.executable, "-m", "deploytool", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **nvml.env},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    ) as command:  # fmt: skip
        assert command.stdout is not None and command.stderr is not None
        said = []
        for line in command.stderr:
            said.append(line)
            for word, mib in used.items():
                if word in line:
                    nvml.write(Device(used=mib))
        out = command.stdout.read()
    assert command.returncode == 0, "".join(said)
    document: dict[str, Any] = json.loads(out)
    return document


# bfloat16: what computes is torch, whatever else is installed.
SERVER = (MODEL, "--profile", "a10g", "--engine", "sentence-transformers", "--dtype", "bfloat16",
          "--seq-len", "64", "--set", "device=cpu", "--set", "max_batch_tokens=512", "--json")  # fmt: skip


@pytest.mark.slow
@pytest.mark.model
def test_a_start_and_a_calibration_correct_the_next_plan(nvml: Nvml, cli: CommandLine) -> None:
    nvml.write(Device(used=500))
    before = json.loads(cli("plan", *SERVER, env=nvml.env).stdout)["memory"]
    try:
        up = following(
            nvml, ("up", *SERVER, "--port", "auto", "--name", "one", "--no-smoke"), {"starting one": 1500}
        )
        assert up["memory"]["vram_before_mib"] == 500
    finally:
        assert cli("down", "--all").returncode == 0
    kept = json.loads(cli("calibrations", "list", "--json").stdout)
    assert [(entry["loaded_mib"], entry["source"], entry["figure"]) for entry in kept] == [
        (1000, "start", "card")
    ]
    nvml.write(Device(used=500))
    after = json.loads(cli("plan", *SERVER, env=nvml.env).stdout)["memory"]
    assert after["expected_mib"] == pytest.approx(1000 + before["work_mib"], abs=1)
    assert after["calibration"].startswith("calibrated by 1 run on this card")

    found = following(
        nvml, ("calibrate", *SERVER, "--duration", "1"), {"starting calibrate-": 1600, "1 cell on": 2600}
    )
    assert (found["measured"]["loaded_mib"], found["measured"]["peak_mib"]) == (1100, 2100)
    assert found["measured"]["full"] is True
    assert json.loads(cli("ps", "--json").stdout) == []
    nvml.write(Device(used=500))
    text = cli("plan", *(word for word in SERVER if word != "--json"), env=nvml.env)
    assert "calibrated by 2 runs on this card" in text.stdout
    document = json.loads(cli("plan", *SERVER, env=nvml.env).stdout)["memory"]
    assert document["expected_mib"] == pytest.approx(1050 + 1000, abs=1)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((MODEL, "--profile", "cpu"), 4, "has no card"),
        ((MODEL, "--profile", "a10g"), 8, "no card is here"),
        (("voyage-code-3", "--profile", "a10g"), 4, "hosted API"),
    ],
)
def test_what_cannot_be_calibrated(
    cli: CommandLine, arguments: tuple[str, ...], code: int, said: str
) -> None:
    answer = cli("calibrate", *arguments)
    assert (answer.returncode, said in answer.stderr) == (code, True), answer.stderr
