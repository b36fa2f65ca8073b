"""Options that `plan` and `up` share, and how a plan is shown: `up --dry-run` prints what `plan` prints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from deploytool.catalog import Catalog
from deploytool.cli.output import emit, note, say, table
from deploytool.errors import BadInput
from deploytool.hardware import Scalar, match_profiles
from deploytool.launch import FREE_PORT, SECRET_FILE
from deploytool.plans import PlanDoesNotFit, Prepared
from deploytool.settings import parse_assignments

PANEL = "Plan"
Model = Annotated[str, typer.Argument(help="A model card's name, a local folder, or a hub id (org/name).")]
ModelOrFile = Annotated[
    str | None,
    typer.Argument(metavar="MODEL", help="A model card's name, a local folder, or a hub id (org/name)."),
]
Profile = Annotated[
    str | None, typer.Option("--profile", help="Hardware profile; see `deploytool profiles list`.")
]
EngineName = Annotated[
    str,
    typer.Option("--engine", help="auto, sglang, sentence-transformers or llama-cpp.", rich_help_panel=PANEL),
]
Batch = Annotated[
    int | None,
    typer.Option(
        "--batch", help="Longest texts in one forward pass to plan memory for.", rich_help_panel=PANEL
    ),
]
SeqLen = Annotated[
    int | None,
    typer.Option(
        "--seq-len", help="Longest text in tokens: planned for, and enforced.", rich_help_panel=PANEL
    ),
]
DtypeName = Annotated[
    str | None,
    typer.Option(
        "--dtype", help="float32, float16 or bfloat16 (default: by card and model).", rich_help_panel=PANEL
    ),
]
TensorParallel = Annotated[
    int | None,
    typer.Option(
        "--tp", help="Cards that share the model (default: the fewest that fit).", rich_help_panel=PANEL
    ),
]
Pooling = Annotated[
    str | None,
    typer.Option(
        "--pooling",
        metavar="mean|cls|last",
        help="Asked for where an encoder ships none (codebert, starencoder).",
        rich_help_panel=PANEL,
    ),
]
Host = Annotated[
    str | None,
    typer.Option("--host", help="Address to listen on (default: 127.0.0.1; others need an API key)."),
]
Port = Annotated[str | None, typer.Option("--port", help="Port to listen on, or auto for a free one.")]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Any setting of the engine; may be repeated.",
        rich_help_panel=PANEL,
    ),
]
ApiKeyFile = Annotated[
    Path | None,
    typer.Option("--api-key-file", help="File with the API key to enforce (or variable DEPLOYTOOL_API_KEY)."),
]
ProfilesDir = Annotated[
    Path | None, typer.Option("--profiles-dir", help="Folder with hardware/ and models/ searched first.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def flags(
    *,
    batch: int | None = None,
    seq_len: int | None = None,
    dtype: str | None = None,
    tp: int | None = None,
    pooling: str | None = None,
    host: str | None = None,
    port: str | None = None,
    assignments: list[str] | None = None,
) -> dict[str, Scalar]:
    """The settings given on the command line, under the engines' names; a flag of its own beats `--set`."""
    named: Mapping[str, Scalar | None] = {
        "batch": batch,
        "max_length": seq_len,
        "dtype": dtype,
        "tensor_parallel": tp,
        "pooling": pooling,
        "host": host,
        "port": port,
    }
    given = {name: value for name, value in named.items() if value is not None}
    return parse_assignments(assignments or []) | given


def needed_profile(profile: str | None, profiles_dir: Path | None) -> str:
    """The profile asked for; without one, BadInput that says which is that of this machine, and all there are."""
    if profile is not None:
        return profile
    from deploytool.telemetry.nvml import detect

    catalog = Catalog(profiles_dir)
    known, found = catalog.hardware_profiles(), detect()
    here = {
        match.name: str(gpu)
        for gpu in found.gpus
        for match in match_profiles(gpu.name or "", gpu.memory_total_mib, known)
    }
    if here:
        hint = "; ".join(f"--profile {name} for this machine's {gpu}" for name, gpu in here.items())
    elif found.gpus:
        hint = "this machine's card is in none of them (`deploytool profiles detect` says why)"
    else:
        hint = f"this machine has no card, --profile cpu takes its processors ({found.reason})"
    raise BadInput(
        "--profile is missing: it says for which hardware",
        hint=hint,
        details=[f"profiles: {', '.join(catalog.files('hardware'))}"],
    )


def show_plan(prepared: Prepared, *, json: bool) -> None:
    """Print a plan: one JSON document, or the text for people (warnings on stderr)."""
    plan = prepared.plan
    if json:
        emit(plan.document())
        return
    size = f", {plan.cards} cards" if plan.cards > 1 else ""
    say(f"{plan.model} on {plan.profile} with {plan.engine} ({plan.dtype}{size})")
    say()
    say(plan.launch.command_lines())
    if SECRET_FILE in plan.launch.argv:
        say(f'  ({SECRET_FILE}: a .yaml file, readable by you alone, that holds  api-key: "...")')
    if FREE_PORT in plan.launch.argv:
        say(f"  ({FREE_PORT}: a free port, chosen at the start)")
    say()
    _show_memory(prepared)
    say()
    rows = [(value.name, _text(value.value), value.origin, value.why) for value in plan.values]
    table(["setting", "value", "origin", "why"], rows)
    for warning in plan.warnings:
        note(f"warning: {warning}")


def _show_memory(prepared: Prepared) -> None:
    memory = prepared.plan.memory
    where = "host memory" if prepared.hardware.kind == "cpu" else "per card"
    rows: list[tuple[str, str]] = [("weights", _mib(memory.weights_mib))]
    if memory.pool_mib is not None:
        rows.append(("token pool", _mib(memory.pool_mib)))
    rows += [
        ("activations", _mib(memory.activations_mib)),
        ("context", _mib(memory.context_mib)),
        ("lower", _mib(memory.lower_mib)),
        ("expected", _mib(memory.expected_mib)),
        ("upper", _mib(memory.upper_mib)),
    ]
    if memory.profile_mib is not None:
        rows.append(("profile", f"{_mib(memory.profile_mib)}  usable on one idle card"))
    rows.append(("available", f"{_mib(memory.available_mib)}  {memory.available_from}"))
    if memory.left_free_mib is not None:
        rows.append(("left free", _mib(max(memory.left_free_mib, 0))))
    if memory.replicas is not None and memory.replicas > 1:
        rows.append(("such servers", f"{memory.replicas:>9,}  fit beside each other"))
    if memory.calibration:
        rows.append(("calibration", memory.calibration))
    verdict = memory.verdict.replace("_", " ") + (f": {memory.reason}" if memory.reason else "")
    rows.append(("verdict", verdict))
    table([f"memory, {where}", "MiB"], rows)


def _text(value: Scalar | None) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(value)


def _mib(value: float | None) -> str:
    return "unknown" if value is None else f"{value:>9,.0f}"


def show_misfit(error: PlanDoesNotFit, *, json: bool) -> None:
    """Before the error of a plan that does not fit: the plan, for people. As JSON the error carries it."""
    if not json:
        show_plan(error.prepared, json=False)
        say()
