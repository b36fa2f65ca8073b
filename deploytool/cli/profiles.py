"""`profiles`: the hardware profiles there are, what one says, whether files are right, which card is here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploytool.catalog import Catalog, catalog_files
from deploytool.cli.checking import as_document, facts, known_engines, validate, warn_of_broken
from deploytool.cli.output import emit, note, say, table
from deploytool.hardware import HardwareProfile, match_profiles, profiles_by_name

if TYPE_CHECKING:
    from deploytool.telemetry.nvml import Gpu

app = typer.Typer(
    help="Hardware profiles: list, show, validate, detect.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
ProfilesDir = Annotated[
    Path | None, typer.Option("--profiles-dir", metavar="DIR", help="Look for profiles here first.")
]


@app.command("list")
def list_profiles(as_json: Json = False, profiles_dir: ProfilesDir = None) -> None:
    """List the hardware profiles on the search path."""
    entries = Catalog(profiles_dir).hardware_entries()
    if as_json:
        emit([as_document(entry) for entry in entries])
        return
    rows = [_row(entry.name, entry.document) for entry in entries]
    columns = ("profile", "card", "memory MiB", "usable MiB", "GB/s", "capability", "dtype", "USD/h")
    table(columns, rows, right=("memory MiB", "usable MiB", "GB/s", "capability", "USD/h"))
    warn_of_broken(entries, "profiles")


def _row(name: str, profile: HardwareProfile | None) -> tuple[object, ...]:
    if profile is None:
        return (name, "INVALID", None, None, None, None, None, None)
    price = profile.price
    return (
        name,
        profile.title,
        _grouped(profile.memory_mib),
        _grouped(profile.usable_mib),
        _grouped(profile.bandwidth_gb_per_s),
        profile.compute_capability,
        profile.dtypes.preferred if profile.dtypes else None,
        f"{price.usd_per_hour / price.gpus:.3f}" if price else None,
    )


def _grouped(value: float | None) -> str | None:
    return None if value is None else f"{value:,.0f}"


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="A profile's name.")],
    as_json: Json = False,
    as_yaml: Annotated[
        bool, typer.Option("--yaml", help="Print the file, to start one of your own.")
    ] = False,
    profiles_dir: ProfilesDir = None,
) -> None:
    """Show what a profile says and where its figures are from."""
    catalog = Catalog(profiles_dir)
    profile = catalog.hardware(name)
    path = catalog.files("hardware")[name]
    if as_yaml:
        say(path.read_text(encoding="utf-8").rstrip())
    elif as_json:
        emit({"path": str(path), **profile.model_dump(mode="json")})
    else:
        _print(profile, path)


def _print(profile: HardwareProfile, path: Path) -> None:
    span = profile.match.memory if profile.match else None
    dtypes = profile.dtypes
    price = profile.price
    facts(
        [
            (profile.name, profile.title),
            ("kind", profile.kind),
            ("NVML names", " | ".join(profile.match.nvml_names) if profile.match else None),
            ("NVML memory", f"{span.min_mib:,} to {span.max_mib:,} MiB" if span else None),
            ("memory", f"{profile.memory_mib:,} MiB" if profile.memory_mib else None),
            ("usable", f"{profile.usable_mib:,} MiB (estimate)" if profile.usable_mib else None),
            ("unified memory", "yes: shared with the host" if profile.unified_memory else None),
            ("bandwidth", f"{profile.bandwidth_gb_per_s:,.0f} GB/s" if profile.bandwidth_gb_per_s else None),
            ("capability", profile.compute_capability),
            ("tensor", f"{profile.tensor_tflops:g} TFLOPS" if profile.tensor_tflops else None),
            ("TDP", f"{profile.tdp_w} W" if profile.tdp_w else None),
            ("dtypes", f"{', '.join(dtypes.allowed)} (preferred: {dtypes.preferred})" if dtypes else None),
            ("members", ", ".join(profile.members)),
            ("engine defaults", tuple(f"{key}: {values}" for key, values in profile.engine_defaults.items())),
            (
                "price",
                f"{price.usd_per_hour:g} USD/h, {price.instance} ({price.gpus} card"
                f"{'s' if price.gpus > 1 else ''}), {price.as_of}; {price.source}"
                if price
                else None,
            ),
            ("notes", profile.notes),
            ("sources", profile.sources),
            ("file", path),
        ]
    )


@app.command("validate")
def validate_profiles(
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Files or folders; none: everything on the search path.")
    ] = None,
    as_json: Json = False,
    profiles_dir: ProfilesDir = None,
) -> int:
    """Report every problem of profile files: file, line, field, and what was expected."""
    from deploytool.engines import ENGINES

    catalog = Catalog(profiles_dir)

    def read(path: Path) -> object:
        return catalog.read_hardware(path, [known_engines("engine_defaults", ENGINES)])

    return validate(catalog_files("hardware", profiles_dir, paths or ()), read, as_json)


@app.command("detect")
def detect(as_json: Json = False, profiles_dir: ProfilesDir = None) -> None:
    """Find the cards of this machine and say which profile each one is."""
    from deploytool.telemetry.nvml import detect as ask_nvml

    profiles = Catalog(profiles_dir).hardware_profiles()
    detected = ask_nvml()
    found = [(gpu, match_profiles(gpu.name or "", gpu.memory_total_mib, profiles)) for gpu in detected.gpus]
    if as_json:
        emit(
            {
                "gpus": [_detected(gpu, matches, profiles) for gpu, matches in found],
                "reason": detected.reason,
                "mend": detected.mend,
                "usable_profiles": sorted(
                    {match.name for _, matches in found for match in matches} | {"cpu"}
                ),
            }
        )
        return
    if not detected.gpus:
        say(f"no GPU: {detected.reason}")
        note(f"hint: {detected.mend}" if detected.mend else "hint: a card needs NVIDIA's driver")
        note("hint: `--profile cpu` needs no GPU; `plan` works for every profile without one")
        return
    columns = ("GPU", "name", "memory MiB", "free MiB", "capability", "driver", "profile")
    rows = [
        (
            gpu.index,
            gpu.name,
            _grouped(gpu.memory_total_mib),
            _grouped(gpu.memory_free_mib),
            gpu.compute_capability,
            gpu.driver_version,
            " | ".join(match.name for match in matches) or "none",
        )
        for gpu, matches in found
    ]  # fmt: skip
    table(columns, rows, right=("memory MiB", "free MiB", "capability"))
    for gpu, matches in found:
        for what, reason in gpu.problems.items():
            note(f"note: GPU {gpu.index}: {what} is unknown: {reason}")
        if not matches:
            note(f"note: {_unknown(gpu, profiles)}")


def _detected(gpu: Gpu, matches: list[HardwareProfile], profiles: list[HardwareProfile]) -> dict[str, Any]:
    return gpu.model_dump(mode="json") | {
        "profiles": [match.name for match in matches],
        "why_none": None if matches else _unknown(gpu, profiles),
    }


def _unknown(gpu: Gpu, profiles: list[HardwareProfile]) -> str:
    """Why a card is none of the profiles, and what to do."""
    mend = "write a profile for it (`deploytool profiles show a10g --yaml` is an example)"
    if gpu.name is None:
        return f"GPU {gpu.index} does not say what it is; {gpu.problems.get('name', 'no reason given')}"
    if gpu.mig:
        return f"GPU {gpu.index} ({gpu.name}) is cut into MIG instances, which no profile describes; {mend}"
    same = profiles_by_name(gpu.name, profiles)
    if not same:
        return f"GPU {gpu.index} ({gpu.name}) is in no profile: {mend}"
    names = " or ".join(profile.name for profile in same)
    if gpu.memory_total_mib is None:
        return (
            f"GPU {gpu.index} has the name of {names}, but its memory is unknown"
            f" ({gpu.problems.get('memory_total_mib', 'no reason given')}): it may be another size;"
            f" take --profile {same[0].name} where you know that it is one"
        )
    size = f"{gpu.memory_total_mib:,.0f} MiB"
    return f"GPU {gpu.index} has the name of {names}, but {size} are another card's: {mend}"
