"""Before a launch: is the card here, is there room on it, are the engine and the model's files there.

Everything that stands in the way is said together, each with its mend; nothing is started.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from deploytool import engines, model_files
from deploytool.errors import DeploytoolError, DoesNotFit, Incompatible, NotAvailable
from deploytool.hardware import HardwareProfile, match_profiles
from deploytool.planning import Plan
from deploytool.plans import PlanDoesNotFit, Prepared
from deploytool.telemetry import host
from deploytool.telemetry.nvml import Detected, Gpu, detect
from deploytool.telemetry.presence import Live, choose, free_mib, live, of_profile

__all__ = ["Live", "check", "choose", "holders", "live", "naming_holders"]

ANYWAY = "--skip-preflight starts it all the same"


class Obstacle(NamedTuple):
    """One thing that stands in the way, what to do about it, and the error that it is."""

    kind: type[DeploytoolError]
    message: str
    mend: str


def holders(cards: Live) -> list[str]:
    """Who holds memory on the cards, one line each; empty where nobody does or nothing says."""
    return [f"{gpu}: {process}" for gpu in cards.gpus for process in gpu.processes or ()]


@contextlib.contextmanager
def naming_holders(cards: Live) -> Iterator[None]:
    """A plan inside that does not fit what is free now is told who holds memory on the cards."""
    try:
        yield
    except PlanDoesNotFit as error:
        held = holders(cards)
        error.details = (*error.details, *held)
        idle = max((gpu.memory_total_mib or 0 for gpu in cards.gpus), default=0)
        if held and error.prepared.plan.memory.expected_mib <= idle:
            error.hint = f"free the card of what holds its memory; {error.hint}"
        raise


def check(
    prepared: Prepared,
    *,
    gpus: Sequence[int] | None = None,
    profiles: Iterable[HardwareProfile] = (),
    engine_here: bool = True,
    replicas: int = 1,
) -> list[str]:
    """Warnings, where nothing stands in the way of starting the plan.

    gpus: NVML indices asked for (`--gpu`); without them the cards that `choose` names are looked at.
    profiles: all known ones, to name that of a card found instead. engine_here: the engine is to be installed
    beside this tool, not in an image. replicas: so many servers of the plan are to start.
    Raises NotAvailable (8) where something is missing, Incompatible (4) or DoesNotFit (3) otherwise, with all
    obstacles in its details.
    """
    obstacles: list[Obstacle] = []
    warnings: list[str] = []
    if prepared.hardware.kind == "cpu":
        _check_host_memory(prepared.plan, replicas, obstacles, warnings)
    else:
        taken = _check_cards(prepared, gpus, profiles, replicas, obstacles)
        for gpu in taken:
            _check_card(prepared, gpu, obstacles, warnings)
    if engine_here:
        _check_engine(prepared.plan.engine, obstacles)
    if prepared.files is None:
        _check_files(lambda: model_files.locate(prepared.card), obstacles)
    if obstacles:
        raise _error(prepared, obstacles)
    return warnings


def _check_cards(
    prepared: Prepared,
    asked: Sequence[int] | None,
    profiles: Iterable[HardwareProfile],
    replicas: int,
    obstacles: list[Obstacle],
) -> list[Gpu]:
    """The cards that the server would get, as far as they are here."""
    hardware, needed = prepared.hardware, prepared.plan.cards * replicas
    detected = detect()
    if not detected.gpus:
        obstacles.append(_no_card(hardware, detected))
        return []
    present = of_profile(hardware, detected.gpus)
    if asked is not None:
        return _check_asked(prepared, asked, detected.gpus, profiles, replicas, obstacles)
    if not present:
        obstacles.append(_other_cards(hardware, detected.gpus, profiles))
    elif len(present) < needed:
        where = f"of the profile {hardware.name} are here"
        obstacles.append(_too_few(prepared.plan.cards, replicas, len(present), where))
    return present[:needed]


def _check_asked(
    prepared: Prepared,
    asked: Sequence[int],
    gpus: Sequence[Gpu],
    profiles: Iterable[HardwareProfile],
    replicas: int,
    obstacles: list[Obstacle],
) -> list[Gpu]:
    """The cards of `--gpu`, those that are here and of the profile."""
    hardware, cards = prepared.hardware, prepared.plan.cards
    by_index = {gpu.index: gpu for gpu in gpus}
    missing = [index for index in asked if index not in by_index]
    for index in missing:
        message = f"there is no GPU {index}: NVML shows {_listed(gpus)}"
        mend = f"--gpu takes {', '.join(map(str, by_index))}, the numbers of nvidia-smi"
        obstacles.append(Obstacle(NotAvailable, message, mend))
    named = [by_index[index] for index in asked if index in by_index]
    others = [gpu for gpu in named if not of_profile(hardware, [gpu])]
    if others:
        obstacles.append(_other_cards(hardware, others, profiles))
    if len(set(asked)) < cards * replicas:
        obstacles.append(_too_few(cards, replicas, len(set(asked)), "are named by --gpu"))
    return [gpu for gpu in named if gpu not in others]


def _too_few(cards: int, replicas: int, here: int, where: str) -> Obstacle:
    needed = cards * replicas
    if replicas > 1:
        return Obstacle(
            NotAvailable,
            f"{replicas} replicas take {needed} cards ({cards} each), and only {here} {where}",
            f"--replicas {max(1, here // cards)}, or a machine with {needed} such cards",
        )
    return Obstacle(
        NotAvailable,
        f"the plan takes {needed} cards, and only {here} {where}",
        f"--tp {here} if the model fits, or a machine with {needed} such cards",
    )


def _no_card(hardware: HardwareProfile, detected: Detected) -> Obstacle:
    mend = f"{detected.mend}; without a card take --profile cpu"
    return Obstacle(NotAvailable, f"{_wanted(hardware)}, and no card is here: {detected.reason}", mend)


def _other_cards(
    hardware: HardwareProfile, found: Sequence[Gpu], profiles: Iterable[HardwareProfile]
) -> Obstacle:
    known = list(profiles)
    fitting = {
        profile.name
        for gpu in found
        if gpu.name is not None
        for profile in match_profiles(gpu.name, gpu.memory_total_mib, known)
    }
    mend = f"take --profile {' or '.join(sorted(fitting))}" if fitting else "see: deploytool profiles detect"
    return Obstacle(NotAvailable, f"{_wanted(hardware)}; NVML shows {_listed(found)}", mend)


def _wanted(hardware: HardwareProfile) -> str:
    """What the profile looks for. Two sizes of a card can share a name, so the memory is always said."""
    if hardware.match is None:
        return f"the profile {hardware.name} names no card"
    names = " or ".join(hardware.match.nvml_names)
    memory = hardware.match.memory
    size = f" with {memory.min_mib:,} to {memory.max_mib:,} MiB" if memory else ""
    return f"the profile {hardware.name} needs {names}{size}"


def _check_card(prepared: Prepared, gpu: Gpu, obstacles: list[Obstacle], warnings: list[str]) -> None:
    hardware, plan = prepared.hardware, prepared.plan
    if _below(gpu.compute_capability, hardware.compute_capability):
        obstacles.append(
            Obstacle(
                Incompatible,
                f"{gpu} has compute capability {gpu.compute_capability}, the profile {hardware.name} says "
                f"{hardware.compute_capability}",
                "correct compute_capability in the profile: dtype and engine are chosen by it",
            )
        )
    if gpu.mig:
        warnings.append(f"MIG is on, {gpu}: the server gets one slice, figures here are of the whole card")
    free = free_mib(hardware, gpu)
    if free is None:
        why = gpu.problems.get("memory_free_mib", "unknown")
        warnings.append(f"free memory of {gpu} was not compared with the plan: {why}")
        return
    holders = "; ".join(map(str, gpu.processes or ())) or gpu.problems.get("processes", "")
    _compare(plan, free, str(gpu), holders, obstacles, warnings)
    if gpu.processes:
        warnings.append(f"{gpu} is shared: {holders}; what a load measures will include them")


def _check_host_memory(plan: Plan, replicas: int, obstacles: list[Obstacle], warnings: list[str]) -> None:
    memory = host.memory()
    place = "this machine" if memory.limited_by == "host" else "this container (by its cgroup's limit)"
    if replicas > 1:
        place += f", for each of {replicas} replicas,"
    _compare(plan, memory.available_mib / replicas, place, "", obstacles, warnings)


def _compare(
    plan: Plan, free_mib: float, place: str, holders: str, obstacles: list[Obstacle], warnings: list[str]
) -> None:
    """Free memory now against the estimate: below `expected` is an obstacle, below `upper` is tight."""
    memory = plan.memory
    needs = f"{plan.model} is expected to take {memory.expected_mib:,.0f} MiB (up to {memory.upper_mib:,.0f})"
    has = f"{place} has {free_mib:,.0f} MiB free"
    if free_mib < memory.expected_mib:
        held = f": {holders}" if holders else ""
        mend = "free that memory, or take another card (--gpu), a smaller model or shorter texts"
        if not holders:
            mend = "free memory, or take a smaller model, shorter texts or another machine"
        obstacles.append(Obstacle(DoesNotFit, f"{has}, {needs}{held}", f"{mend}; {ANYWAY}"))
    elif free_mib < memory.upper_mib:
        warnings.append(f"tight: {has}, {needs}")


def _check_engine(name: str, obstacles: list[Obstacle]) -> None:
    engine = engines.engine(name)
    if engine.installed() is None:
        missing = f"the engine {name} is not installed here"
        obstacles.append(Obstacle(NotAvailable, missing, engine.install))


def _check_files(locate: Callable[[], object], obstacles: list[Obstacle]) -> None:
    try:
        locate()
    except DeploytoolError as error:
        obstacles.append(Obstacle(type(error), error.message, error.hint or ""))


def _error(prepared: Prepared, obstacles: Sequence[Obstacle]) -> DeploytoolError:
    """One error for all obstacles: what is missing comes before what does not fit."""
    kinds = [obstacle.kind for obstacle in obstacles]
    kind = next((one for one in (NotAvailable, Incompatible, DoesNotFit) if one in kinds), kinds[0])
    if len(obstacles) == 1:
        return kind(obstacles[0].message, hint=obstacles[0].mend)
    return kind(
        f"{len(obstacles)} things keep {prepared.plan.model} from starting on {prepared.hardware.name}",
        hint="nothing was started; mend these and try again",
        details=[f"{obstacle.message}\n    mend: {obstacle.mend}" for obstacle in obstacles],
    )


def _below(capability: str | None, wanted: str | None) -> bool:
    """Whether a compute capability ("8.6") is lower than wanted; an unknown one is no obstacle."""
    if capability is None or wanted is None:
        return False
    return [int(part) for part in capability.split(".")] < [int(part) for part in wanted.split(".")]


def _listed(gpus: Iterable[Gpu]) -> str:
    return ", ".join(map(str, gpus)) or "none"
