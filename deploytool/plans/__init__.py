"""Prepares a launch: finds card, profile and files, chooses the engine, plans, says what would fit instead.

`plan`, `up` and `up --dry-run` all come through `prepare`, so that they show and start the same.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from deploytool import calibrations, model_files
from deploytool.catalog import Catalog
from deploytool.engines import ENGINES, engine
from deploytool.errors import BadInput, DoesNotFit, Incompatible, NotAvailable
from deploytool.gguf_card import with_gguf
from deploytool.hardware import HardwareProfile, Scalar, choose_member
from deploytool.memory.measured import Measured
from deploytool.model_files import ModelFiles
from deploytool.models import ModelCard
from deploytool.planning import AUTO, Plan, PlanRequest
from deploytool.planning.choices import check_engine, choose_engine
from deploytool.plans import suggestions
from deploytool.safetensors_header import parameters, weight_files
from deploytool.settings import environment_settings
from deploytool.telemetry import host

CPU_FIRST = "sentence-transformers"


class Prepared(NamedTuple):
    """A launch that may be started. `files` is None where the model's files are not here (yet)."""

    card: ModelCard
    hardware: HardwareProfile
    plan: Plan
    files: ModelFiles | None


class Known(NamedTuple):
    """What this machine knows: engine -> installed version (None: not installed), and what was measured."""

    versions: Mapping[str, str | None]
    measured: Sequence[Measured]


class PlanDoesNotFit(DoesNotFit):
    """Carries the plan, so that a program still gets command, memory and verdict."""

    def __init__(self, prepared: Prepared) -> None:
        plan = prepared.plan
        fits = plan.suggestions
        super().__init__(
            f"{plan.model} does not fit {plan.profile} with {plan.engine}: {plan.memory.reason}",
            hint="what fits: " + "; ".join(fits) if fits else "nothing nearby fits: choose another model",
        )
        self.prepared = prepared

    def document(self) -> dict[str, Any]:
        return self.prepared.plan.document() | super().document()


def prepare(
    model: str,
    profile: str,
    *,
    engine: str = AUTO,
    flags: Mapping[str, Scalar],
    deployment_file: Mapping[str, Scalar] | None = None,
    with_key: bool = False,
    catalog: Catalog,
    free_mib: float | None = None,
    gpus: int | None = None,
    environ: Mapping[str, str] = os.environ,
    verify: bool = True,
) -> Prepared:
    """A plan that fits, with the files it would serve.

    `free_mib`: free now on the fullest card that would be taken, None where nothing says. `gpus`: cards that
    may be taken. `verify` checks the files' digests.

    Raises PlanDoesNotFit (3), Incompatible (4), BadInput (2),
    NotAvailable (8: an alias without a card, files that are not what their card says).
    """
    card = catalog.model(model)
    gguf = flags.get("gguf", (deployment_file or {}).get("gguf"))
    if gguf is not None:
        card = with_gguf(card, Path(str(gguf)).expanduser())
    if card.kind == "api" and card.api is not None:
        raise Incompatible(
            f"{card.name} is a hosted API ({card.api.provider}): there is nothing to start",
            hint=f"measure it as it is: smoke or load {card.api.base_url}, key in {card.api.key_env}",
        )
    hardware = resolve_alias(catalog.hardware(profile), catalog)
    files, notes = _files(card, verify)
    settings = environment_settings(environ)
    if engine == AUTO:
        engine = str(settings.get("engine", AUTO))
    if free_mib is None and hardware.kind == "cpu":
        free_mib = host.memory().available_mib
    request = PlanRequest(
        engine=engine,
        flags=dict(flags),
        environment=settings,
        deployment_file=dict(deployment_file or {}),
        model_path=files.argument if files else None,
        weights_bytes=files.weights_bytes if files else None,
        parameters=_counted(card, files),
        with_key=with_key,
        free_mib=free_mib,
        free_from="free memory of this machine" if hardware.kind == "cpu" else "free now (NVML)",
        gpus=gpus,
        cpus=usable_cores() if hardware.kind == "cpu" else None,
    )
    known, lost = known_here()
    plan, why = planned(card, hardware, request, known)
    plan = plan.model_copy(update={"warnings": (*notes, *lost, *why, *plan.warnings)})
    prepared = Prepared(card, hardware, plan, files)
    if plan.memory.verdict != "does_not_fit":
        return prepared
    offers = suggestions.what_fits(plan, card, hardware, request, ENGINES, catalog)
    raise PlanDoesNotFit(prepared._replace(plan=plan.model_copy(update={"suggestions": tuple(offers)})))


def planned(
    card: ModelCard, hardware: HardwareProfile, request: PlanRequest, known: Known
) -> tuple[Plan, list[str]]:
    """The plan of one model on one kind of card, whether or not it fits, and what to say of it.

    With `request.engine` auto, an engine that fits is taken before one that does not. Raises Incompatible,
    BadInput.
    """
    chosen, why = _engine(request.engine, card, hardware)
    plan, instead = _plan(chosen, card, hardware, request, known, fixed=request.engine != AUTO)
    plan, version = _with_version(plan, known)
    return plan, [*version, *why, *instead]


def any_pooling(card: ModelCard) -> dict[str, Scalar]:
    """Flags for a plan whose memory alone is of interest: it is the same with every pooling."""
    return {"pooling": "mean"} if card.kind == "encoder" and card.pooling is None else {}


def known_here() -> tuple[Known, list[str]]:
    """What this machine knows beside profiles and cards, and warnings about it.

    A file of measurements that cannot be read costs the corrections, not the plan.
    """
    versions = {name: known.installed() for name, known in ENGINES.items()}
    try:
        found = calibrations.kept()
    except (NotAvailable, OSError) as error:
        return Known(versions, ()), [f"plans are not corrected by what was measured: {error}"]
    lost = f"{found.unreadable} lines of {calibrations.FILE} cannot be read: left out"
    return Known(versions, found.entries), [lost] if found.unreadable else []


def _counted(card: ModelCard, files: ModelFiles | None) -> int | None:
    """Parameters in the headers of the model's files; None: not here, not readable, or packed."""
    if files is None or files.path is None or card.quantization or card.gguf is not None:
        return None
    folder = Path(files.path)
    try:
        return parameters(weight_files(folder) or sorted(folder.glob("*/*.safetensors")))[0]
    except BadInput:
        return None


def resolve_alias(hardware: HardwareProfile, catalog: Catalog) -> HardwareProfile:
    """The profile of the card that is present, for an alias such as `consumer`; any other as it is."""
    if hardware.kind != "alias":
        return hardware
    from deploytool.telemetry.nvml import detect

    found = detect()
    cards = [(gpu.name, gpu.memory_total_mib) for gpu in found.gpus if gpu.name is not None]
    return choose_member(hardware, cards, catalog.hardware_profiles(), reason=found.reason)


def usable_cores() -> int | None:
    """Physical cores, where this process may use more processors than that; None: the server's own choice.

    Two threads of one core share its arithmetic units: computing on both gains nothing.
    """
    import psutil

    physical = psutil.cpu_count(logical=False)
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return physical if physical and allowed and physical < allowed else None


def _files(card: ModelCard, verify: bool) -> tuple[ModelFiles | None, list[str]]:
    """The model's files; without them a plan is still made. Files with the wrong digest are an error."""
    try:
        files = model_files.locate(card, verify=False)
    except NotAvailable as error:
        return None, [f"{error.message} ({error.hint})"]
    if verify:
        files = model_files.locate(card)
    return files, list(files.warnings)


def _engine(name: str, card: ModelCard, hardware: HardwareProfile) -> tuple[str, list[str]]:
    if name == AUTO:
        return choose_engine(card, hardware, ENGINES, order(hardware))
    engine(name)
    check_engine(name, card, hardware, ENGINES)
    return name, []


def order(hardware: HardwareProfile) -> list[str]:
    """Engines as `auto` prefers them: as listed on a card, SentenceTransformers first on processors."""
    if hardware.kind != "cpu":
        return list(ENGINES)
    return sorted(ENGINES, key=lambda name: name != CPU_FIRST)


def _plan(
    name: str,
    card: ModelCard,
    hardware: HardwareProfile,
    request: PlanRequest,
    known: Known,
    *,
    fixed: bool,
) -> tuple[Plan, list[str]]:
    """The engine's plan; with `auto`, another engine's where this one does not fit and that one does."""
    plan = ENGINES[name].plan(card, hardware, for_engine(request, name, card, hardware, known))
    if fixed or plan.memory.verdict != "does_not_fit":
        return plan, []
    for other in order(hardware):
        served = ENGINES[other].support(card).verdict == "ok" and ENGINES[other].refuses(hardware) is None
        if other == name or not served or not _known(request, other):
            continue
        second = ENGINES[other].plan(card, hardware, for_engine(request, other, card, hardware, known))
        if second.memory.verdict != "does_not_fit":
            return second, [f"{name} does not fit here ({plan.memory.reason}); took {other}"]
    return plan, []


def for_engine(
    request: PlanRequest,
    name: str,
    card: ModelCard,
    hardware: HardwareProfile,
    known: Known,
) -> PlanRequest:
    """The request as one engine gets it: its installed version, and what was measured of that."""
    version = known.versions.get(name)
    versions = ENGINES[name].versions if version is None else (version,)
    own = calibrations.of_server(
        known.measured, model=card.name, engine=name, versions=versions, hardware=hardware
    )
    return with_elsewhere(request, name).model_copy(update={"engine_version": version, "measured": own})


def with_elsewhere(request: PlanRequest, name: str) -> PlanRequest:
    """The request with the settings that only other engines know: an error says where they belong."""
    elsewhere = {
        setting.name: other for other, known in ENGINES.items() if other != name for setting in known.settings
    }
    return request.model_copy(update={"elsewhere": elsewhere})


def _known(request: PlanRequest, name: str) -> bool:
    names = {setting.name for setting in ENGINES[name].settings}
    return names.issuperset(request.flags) and names.issuperset(request.deployment_file)


def _with_version(plan: Plan, known: Known) -> tuple[Plan, list[str]]:
    """The plan with the installed engine's version, and a warning where its flags are not known."""
    chosen = ENGINES[plan.engine]
    version = known.versions.get(plan.engine)
    notes = []
    if version is not None and not any(
        version == one or version.startswith(f"{one}.") for one in chosen.versions
    ):
        notes.append(
            f"{plan.engine} {version} is installed; its flags and memory are known for"
            f" {', '.join(chosen.versions)}"
        )
    launch = plan.launch.model_copy(update={"engine_version": version or plan.launch.engine_version})
    return plan.model_copy(update={"launch": launch}), notes
