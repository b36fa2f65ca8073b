"""The cards: driver, CUDA, memory and who holds it, and whether they are those of a profile."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Mapping, Sequence

from deploytool import engines
from deploytool.doctor.finding import Examination, Finding
from deploytool.errors import Incompatible
from deploytool.hardware import HardwareProfile, match_profiles
from deploytool.telemetry.nvml import Detected, Gpu, Session, connect, detect
from deploytool.telemetry.presence import of_profile

SGLANG_IMAGE_CUDA = 13
TORCH_ENGINE = "sentence-transformers"
LAST_CUDA_12_IMAGE = "v0.5.19-cu129"
BUILD = re.compile(r"\+cu(\d+)(\d)$")


def examine(
    hardware: HardwareProfile | None, profiles: Sequence[HardwareProfile], environ: Mapping[str, str]
) -> list[Finding]:
    """`hardware`: the profile asked for; without a card for it, that is a failure, else only said."""
    look = Examination("gpu")
    wanted = hardware is not None and hardware.kind == "gpu"
    if hardware is not None and hardware.kind == "cpu":
        return _not_needed(look, hardware)
    detected = detect()
    _driver(look, detected, fatal=wanted)
    if not detected.gpus:
        return look.findings
    _cuda(look, environ, fatal=wanted and not _others_installed())
    for gpu in detected.gpus:
        _card(look, gpu, profiles)
    if hardware is not None:
        _profile(look, hardware, detected.gpus, profiles)
    return look.findings


def _not_needed(look: Examination, hardware: HardwareProfile) -> list[Finding]:
    look.passed("card", f"none is needed for the profile {hardware.name}")
    return look.findings


def _driver(look: Examination, detected: Detected, *, fatal: bool) -> None:
    if not detected.gpus:
        mend = detected.mend if fatal else f"{detected.mend}; without a card: --profile cpu"
        look.judged("driver", detected.reason or "no card is seen", mend, fatal=fatal)
        return
    version = next((gpu.driver_version for gpu in detected.gpus if gpu.driver_version), None)
    count = f"{len(detected.gpus)} card{'' if len(detected.gpus) == 1 else 's'}"
    if version is None:
        why = detected.gpus[0].problems.get("driver_version", "no reason given")
        look.warned("driver", f"NVML shows {count}; the driver's version is unknown: {why}")
    else:
        look.passed("driver", f"{version}; NVML shows {count}")


def _cuda(look: Examination, environ: Mapping[str, str], *, fatal: bool) -> None:
    session = connect()
    found = session.cuda_version() if isinstance(session, Session) else None
    version = found.value if found else None
    if version is None:
        look.warned("cuda", f"the driver's CUDA version is unknown: {found.reason if found else 'no NVML'}")
    else:
        look.passed("cuda", f"the driver runs programs built for CUDA up to {version}")
        _torch(look, version, fatal=fatal)
        if int(version.split(".")[0]) < SGLANG_IMAGE_CUDA:
            look.warned(
                "sglang image",
                f"SGLang's images are built for CUDA {SGLANG_IMAGE_CUDA}, the driver runs {version}",
                f"update the driver, or take the image lmsysorg/sglang:{LAST_CUDA_12_IMAGE}",
            )
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        look.warned(
            "visible cards",
            f"CUDA_VISIBLE_DEVICES is {visible!r}: programs see those only, NVML counts all",
            "unset it; --gpu chooses cards by NVML's numbers",
        )


def _others_installed() -> bool:
    """Whether an engine is here that does not compute with the torch beside this tool."""
    return any(engine.installed() for name, engine in engines.ENGINES.items() if name != TORCH_ENGINE)


def _torch(look: Examination, driver: str, *, fatal: bool) -> None:
    """PyTorch's build beside this tool; wheels say theirs after a plus, the plain one is for CUDA."""
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return
    build = BUILD.search(version)
    if "+cpu" in version or "+rocm" in version or "+xpu" in version:
        look.judged(
            "torch",
            f"{version} is built without CUDA: {TORCH_ENGINE} cannot use the cards",
            "install the CUDA build of torch (https://pytorch.org/get-started/locally)",
            fatal=fatal,
        )
    elif build and int(build.group(1)) > int(driver.split(".", maxsplit=1)[0]):
        look.judged(
            "torch",
            f"{version} is built for CUDA {build.group(1)}.{build.group(2)}, the driver runs {driver}",
            "update the driver, or install torch built for an older CUDA",
            fatal=fatal,
        )
    else:
        look.passed("torch", f"{version}")


def _card(look: Examination, gpu: Gpu, profiles: Sequence[HardwareProfile]) -> None:
    name = f"card {gpu.index}"
    if gpu.name is None:
        look.warned(name, str(gpu), "see nvidia-smi and dmesg")
        return
    free = (
        f"free memory unknown ({gpu.problems.get('memory_free_mib', 'no reason given')})"
        if gpu.memory_free_mib is None
        else f"{gpu.memory_free_mib:,.0f} MiB free"
    )
    known = [profile.name for profile in match_profiles(gpu.name, gpu.memory_total_mib, profiles)]
    capability = f"compute capability {gpu.compute_capability or 'unknown'}"
    whose = f"profile {' or '.join(known)}" if known else "no profile is this card's"
    saw = f"{gpu}: {free}, {capability}, {whose}"
    if not known:
        look.warned(name, saw, "copy the nearest file of profiles/hardware/ and change its figures")
    elif gpu.mig:
        look.warned(name, f"{saw}; MIG is on", "a server gets one slice; its figures are not the card's")
    elif gpu.processes:
        held = "; ".join(map(str, gpu.processes))
        look.warned(name, f"{saw}; {held}", "stop what is not needed: it takes memory and time of the card")
    elif gpu.processes is None:
        why = gpu.problems.get("processes", "no reason given")
        look.passed(name, f"{saw}; who holds its memory is unknown: {why}")
    else:
        look.passed(name, saw)


def _profile(
    look: Examination,
    hardware: HardwareProfile,
    gpus: Sequence[Gpu],
    profiles: Sequence[HardwareProfile],
) -> None:
    present = of_profile(hardware, gpus)
    if not present:
        fitting = sorted(
            {
                profile.name
                for gpu in gpus
                if gpu.name is not None
                for profile in match_profiles(gpu.name, gpu.memory_total_mib, profiles)
            }
        )
        mend = f"take --profile {' or '.join(fitting)}" if fitting else "see: deploytool profiles detect"
        look.failed(
            f"profile {hardware.name}",
            f"none of the cards is {hardware.title}: {', '.join(map(str, gpus))}",
            mend,
        )
        return
    seen = {gpu.compute_capability for gpu in present} - {None}
    if hardware.compute_capability is not None and any(
        _below(one, hardware.compute_capability) for one in seen
    ):
        look.failed(
            f"profile {hardware.name}",
            f"the card has compute capability {', '.join(map(str, seen))}, the profile says "
            f"{hardware.compute_capability}",
            "correct compute_capability in the profile: dtype and engine are chosen by it",
            Incompatible,
        )
        return
    look.passed(f"profile {hardware.name}", f"{len(present)} of the cards: {', '.join(map(str, present))}")
    for name, engine in engines.ENGINES.items():
        refusal = engine.refuses(hardware)
        if refusal is not None:
            look.warned(f"{name} on {hardware.name}", refusal, "the other engines may run there")


def _below(capability: str | None, wanted: str) -> bool:
    if capability is None:
        return False
    return [int(part) for part in capability.split(".")] < [int(part) for part in wanted.split(".")]
