"""SGLang: native pooling by architecture, a static token pool, `sglang serve`.

What is known of it lies in `sglang_versions` (pooling, limits, by version), `sglang_facts` (settings, log),
`sglang_sizing` (memory), `sglang_choices` (how each setting is chosen) and `sglang_command` (flags).
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from deploytool.engines import common, sizes
from deploytool.engines import sglang_choices as choices
from deploytool.engines import sglang_facts as facts
from deploytool.engines.faults import classify
from deploytool.engines.sglang_command import argv, environment, secret
from deploytool.engines.sglang_sizing import Sizer
from deploytool.engines.sglang_versions import LATEST, VERSIONS, knowledge
from deploytool.errors import Incompatible
from deploytool.hardware import HardwareProfile
from deploytool.launch import LaunchSpec, Readiness
from deploytool.models import EngineSupport, ModelCard
from deploytool.planning import Cause, EngineImage, Plan, PlanRequest
from deploytool.settings import Setting


class SGLang:
    """See planning.Engine."""

    name = facts.NAME
    install = "pip install 'deploytool[sglang]'"
    versions: tuple[str, ...] = VERSIONS
    settings: tuple[Setting, ...] = facts.SETTINGS
    hazards: tuple[str, ...] = facts.HAZARDS

    def support(self, card: ModelCard) -> EngineSupport:
        if card.gguf is not None:
            return common.GGUF
        if facts.NAME in card.engines:
            return card.engines[facts.NAME]
        name = card.architecture.class_name if card.architecture else None
        if card.kind == "reranker" and name in LATEST.rerankers:
            return EngineSupport(verdict="ok", reason="scores pairs at /v1/rerank, with its own prompt")
        if card.kind not in ("embedding", "encoder"):
            return EngineSupport(
                verdict="unsupported", reason=f"a model of kind {card.kind} gives no embeddings"
            )
        if name is None or name not in LATEST.pooling:
            what = f"has no class for {name}" if name else "cannot tell the architecture"
            return EngineSupport(
                verdict="unsupported",
                reason=f"SGLang {LATEST.version} {what}; its fallback may pool otherwise",
            )
        if card.pooling is None:
            return EngineSupport(verdict="unsupported", reason=facts.NO_POOLING)
        if card.pooling != LATEST.pooling[name]:
            reason = f"SGLang pools {name} by {LATEST.pooling[name]}, the model needs {card.pooling}"
            return EngineSupport(
                verdict="wrong-vectors", reason=f"{reason}; it would answer 200 all the same"
            )
        return EngineSupport(verdict="ok", reason=f"{card.pooling} pooling, as the model needs it")

    def refuses(self, hardware: HardwareProfile) -> str | None:
        if hardware.kind == "cpu":
            return None
        if hardware.capability is None or hardware.capability < LATEST.lowest_capability:
            return f"SGLang needs compute capability 7.5, {hardware.name} has {hardware.compute_capability}"
        if hardware.unified_memory:
            return f"{hardware.name} has unified memory, which SGLang's pool cannot be sized for"
        return None

    def plan(self, card: ModelCard, hardware: HardwareProfile, request: PlanRequest) -> Plan:
        values = common.resolver(facts.NAME, facts.SETTINGS, card, hardware, request)
        known = knowledge(request.engine_version)
        warnings: list[str] = []
        host, port = common.resolve_network(values, request)
        dtype = common.resolve_dtype(values, card, hardware, warnings)
        stored = choices.quantization(values, card, hardware, known, dtype, warnings)
        basis = sizes.basis(card, hardware, request, dtype, lm_head=True, stored=stored)
        on_cpu = hardware.kind == "cpu"
        sizer = Sizer(
            basis=basis,
            wanted=choices.wanted(values),
            whole_texts=basis.arch.class_name in known.bidirectional,
            on_cpu=on_cpu,
            positions=basis.arch.max_positions or card.max_tokens,
            scores_pairs=card.kind == "reranker",
        )
        longest = choices.held(sizes.lengths(values, card), sizer.wanted)
        copies = choices.copies_asked(values, hardware)
        sizing = sizer.best(longest, choices.cards(values, card, hardware, request, copies))
        choices.explain(values, sizer, sizing, card, warnings)
        copies = choices.copies(values, sizing, hardware, request, warnings)
        common.resolve_remote_code(values, card, warnings)
        choices.resolve_rest(values, card, hardware, known, dtype)
        template = choices.template(values, card, known)
        path = request.model_path or card.hub_id or card.name
        launch = LaunchSpec(
            engine=facts.NAME,
            engine_version=known.version,
            argv=argv(values.values, path, host, port, sizer, request, known),
            env=environment(path, on_cpu),
            secret=secret(request),
            model=str(values.values["served_model_name"].value),
            model_path=path,
            host=host,
            port=port,
            files=(template,) if template else (),
            devices=() if on_cpu else tuple(range(sizing.tensor_parallel * copies)),
            readiness=Readiness(path="/ready", probe_timeout_s=5, start_timeout_s=900 if on_cpu else 1800),
            image=known.images[0][0],
            shm_mib=32 * 1024,
        )
        memory = sizes.estimate(sizing.parts, basis, cards=sizing.tensor_parallel, need=sizing.need)
        return common.finish(card, hardware, values, memory, launch, warnings)

    def image(self, hardware: HardwareProfile, driver: str | None) -> EngineImage:
        if hardware.kind == "cpu":
            raise Incompatible(
                f"the images of SGLang are built for NVIDIA cards, the profile {hardware.name} has none",
                hint="--engine sentence-transformers, or --image with one that is built for processors",
            )
        major = int(driver.partition(".")[0]) if driver and driver.partition(".")[0].isdecimal() else None
        for image, lowest in LATEST.images:
            if major is None or major >= lowest:
                return _image(image, driver)
        lowest = LATEST.images[-1][1]
        raise Incompatible(
            f"the NVIDIA driver {driver} is too old for every image of SGLang: they need {lowest} or newer",
            hint="update the driver, or name an older image with --image",
        )

    def installed(self) -> str | None:
        """The version beside the `sglang` program on PATH (or beside this tool), read from its metadata."""
        own = Path(sys.executable).parent
        program = shutil.which("sglang") or shutil.which("sglang", path=str(own))
        if program is None:
            return None
        root = Path(program).resolve().parent.parent
        for found in sorted(root.glob("lib*/python3*/*-packages/sglang-*.dist-info")):
            return found.name.removeprefix("sglang-").removesuffix(".dist-info")
        return "unknown"

    def stage(self, line: str) -> str | None:
        for pattern, name in facts.STAGES:
            found = pattern.search(line)
            if found:
                return name.format(*found.groups())
        return None

    def diagnose(self, log_tail: str) -> Cause | None:
        return classify(log_tail, facts.FAULTS)


def _image(name: str, driver: str | None) -> EngineImage:
    version = name.rpartition(":v")[2].partition("-")[0]
    if version in VERSIONS:
        return EngineImage(name=name, version=version)
    warning = (
        f"the driver {driver} has no CUDA 13: took {name}; flags and memory are known for SGLang"
        f" {', '.join(VERSIONS)}, a driver of {LATEST.images[0][1]} or newer runs that"
    )
    return EngineImage(name=name, version=version, warnings=(warning,))
