"""Memory estimates against NVML on the card of this machine: `python benchmarks/gpu_memory.py -o memory.json`.

For each model: a folder of its real shape with random weights, what a plan without any measurement estimates,
`deploytool calibrate` (up, full forward passes, down: NVML at rest and under load), what the next plan
estimates, and single forward passes of other batches and lengths against both estimates. Smallest model
first; results are printed and written after each, so that a cut-off leaves those. Folders are deleted.

To try it without a card: --models tiny --profile a10g --device cpu, beside a stand-in of NVML.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
MODELS = ("all-minilm-l6-v2", "bge-m3", "qwen3-0.6b", "qwen3-4b", "qwen3-8b")
ENGINE = "sentence-transformers"
# (tokens of a forward pass, longest text); a text that the model cannot read is cut to what it reads.
POINTS = ((2048, 128), (16384, 128), (16384, 512), (8192, 2048), (16384, 2048), (8192, 8192), (16384, 8192))
HEAD = (
    f"{'model':18}{'where':>14}{'NVML':>9}{'lower':>9}{'expected':>9}{'upper':>9}{'error':>8}"
    f"{'calibrated':>12}{'error':>8}"
)


class OutOfTime(Exception):
    """The budget is spent."""


def main() -> None:
    given = _arguments()
    deadline = time.monotonic() + given.budget
    with tempfile.TemporaryDirectory(prefix="gpu-memory-", dir=given.folder) as work:
        os.environ["DEPLOYTOOL_HOME"] = str(Path(work, "home"))
        os.environ["HF_HUB_OFFLINE"] = "1"
        profile = given.profile or _detected()
        print(f"profile {profile}, {given.budget:.0f} s for {', '.join(given.models)}\n{HEAD}", flush=True)
        results: list[dict[str, Any]] = []
        for name in given.models:
            result: dict[str, Any] = {"model": name, "profile": profile}
            results.append(result)
            began = time.monotonic()
            try:
                _measure(name, profile, Path(work), deadline, given, result)
            except OutOfTime:
                result["problem"] = "out of time"
            except RuntimeError as error:
                result["problem"] = str(error)
            finally:
                shutil.rmtree(Path(work, name), ignore_errors=True)
            result["seconds"] = round(time.monotonic() - began, 1)
            _show(result)
            if given.output:
                given.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            if result.get("problem") == "out of time":
                break


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="cards' names, or tiny")
    parser.add_argument("--profile", help="hardware profile (default: that of the first card here)")
    parser.add_argument("--device", default="cuda", help="where torch computes")
    parser.add_argument("--gpu", type=int, default=0, help="NVML's number of the card")
    parser.add_argument("--budget", type=float, default=1800, metavar="SECONDS", help="for all of it")
    parser.add_argument("--duration", type=float, default=4, metavar="SECONDS", help="of each load")
    parser.add_argument("--folder", type=Path, help="where the models' folders are made (default: temporary)")
    parser.add_argument("-o", "--output", type=Path, help="JSON of everything")
    return parser.parse_args()


def _detected() -> str:
    from deploytool.catalog import Catalog
    from deploytool.hardware import match_profiles
    from deploytool.telemetry.nvml import detect

    found = detect()
    for gpu in found.gpus:
        fitting = match_profiles(gpu.name or "", gpu.memory_total_mib, Catalog().hardware_profiles())
        if fitting:
            return fitting[0].name
    raise SystemExit(f"no card with a profile is here ({found.reason}): --profile NAME")


def _measure(
    name: str, profile: str, work: Path, deadline: float, given: argparse.Namespace, result: dict[str, Any]
) -> None:
    folder = work / name
    began = time.monotonic()
    _run(["benchmarks/random_model.py", name, str(folder), "--device", given.device], deadline)
    result["making_s"] = round(time.monotonic() - began, 1)
    plan = _plan(folder, profile)
    result["plan"] = plan
    points = _points(plan["reads"])
    rows: list[dict[str, Any]] = [{"batch": batch, "length": length} for batch, length in points]
    for row in rows:
        row["estimate"] = _plan(folder, profile, row["batch"], row["length"])["memory"]
    result["points"] = rows
    began = time.monotonic()
    command = ["-m", "deploytool", "calibrate", str(folder), "--profile", profile, "--engine", ENGINE]
    command += ["--duration", str(given.duration), "--json"]
    if given.device == "cpu":
        command += ["--set", "device=cpu"]
    result["measured"] = json.loads(_run(command, deadline))["measured"]
    result["calibrate_s"] = round(time.monotonic() - began, 1)
    result["calibrated"] = _plan(folder, profile)["memory"]
    for row in rows:
        row["calibrated"] = _plan(folder, profile, row["batch"], row["length"])["memory"]
    job = {
        "folder": str(folder), "device": given.device, "dtype": plan["dtype"], "gpu": given.gpu,
        "points": points,
    }  # fmt: skip
    lines = _run(["benchmarks/gpu_memory_points.py"], deadline, stdin=json.dumps(job)).splitlines()
    seen = [json.loads(line) for line in lines]
    result["rest"] = next(entry for entry in seen if entry["at"] == "rest")
    for row in rows:
        row["seen"] = [
            entry
            for entry in seen
            if (entry.get("batch"), entry.get("length")) == (row["batch"], row["length"])
        ]


def _points(reads: int) -> list[tuple[int, int]]:
    """Without repeats, the smallest forward pass first."""
    found = {(max(tokens // min(length, reads), 1), min(length, reads)) for tokens, length in POINTS}
    return sorted(found, key=lambda point: (point[0] * point[1], point[1]))


def _plan(folder: Path, profile: str, batch: int | None = None, length: int | None = None) -> dict[str, Any]:
    """Memory and dtype of a plan on an idle card, with what this run measured so far."""
    from deploytool.catalog import Catalog
    from deploytool.plans import PlanDoesNotFit, prepare

    flags: dict[str, Any] = {"batch": batch, "max_length": length} if batch and length else {}
    try:
        prepared = prepare(str(folder), profile, engine=ENGINE, flags=flags, catalog=Catalog(), verify=False)
    except PlanDoesNotFit as error:
        prepared = error.prepared
    plan = prepared.plan
    values = {value.name: value.value for value in plan.values}
    return {
        "dtype": plan.dtype,
        "reads": prepared.card.max_tokens,
        "batch": values["batch"],
        "length": values["max_length"],
        "memory": plan.memory.model_dump(mode="json"),
    }


def _run(arguments: list[str], deadline: float, stdin: str = "") -> str:
    """Run one of our programs to its end; at the deadline it is interrupted and may clean up."""
    process = subprocess.Popen(
        [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, cwd=HERE.parent,
    )  # fmt: skip
    try:
        out, said = process.communicate(stdin, timeout=max(deadline - time.monotonic(), 0.1))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=20)
        process.kill()
        raise OutOfTime from None
    if process.returncode:
        raise RuntimeError(f"{' '.join(arguments[:3])} ended with {process.returncode}: {said[-1500:]}")
    return out


def _show(result: dict[str, Any]) -> None:
    name = result["model"]
    if "measured" in result:
        seen, plain, again = result["measured"], result["plan"]["memory"], result["calibrated"]
        weights = f"at rest ({seen['figure']})"
        print(
            f"{name:18}{weights:>18}{seen['loaded_mib']:9,.0f} MiB, {plain['rest_mib']:,.0f} by formula;"
            f" made in {result['making_s']} s, calibrated in {result['calibrate_s']} s"
        )
        shape = f"{result['plan']['batch']}x{result['plan']['length']} load"
        _line(name, shape, seen["peak_mib"], plain, again)
    for row in result.get("points", ()):
        for entry in row.get("seen", ()):
            where = f"{row['batch']}x{row['length']}{' even' if entry['even'] else ''}"
            if "error" in entry:
                print(f"{name:18}{where:>14}  {entry['error']}")
                continue
            held = entry["process"] if entry["process"] is not None else entry["card"]
            _line(name, where, held, row["estimate"], row["calibrated"])
    if "problem" in result:
        print(f"{name:18} {result['problem']}")
    sys.stdout.flush()


def _line(
    name: str, where: str, seen: float | None, plain: dict[str, Any], calibrated: dict[str, Any]
) -> None:
    def error(expected: float) -> str:
        return f"{(expected / seen - 1) * 100:+.1f} %" if seen else "-"

    print(
        f"{name:18}{where:>14}{seen or float('nan'):9,.0f}{plain['lower_mib']:9,.0f}"
        f"{plain['expected_mib']:9,.0f}{plain['upper_mib']:9,.0f}{error(plain['expected_mib']):>8}"
        f"{calibrated['expected_mib']:12,.0f}{error(calibrated['expected_mib']):>8}"
    )


if __name__ == "__main__":
    main()
