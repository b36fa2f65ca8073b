"""Choices that all engines share: the dtype, how many cards share a model, which engine serves it right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from deploytool.errors import Incompatible
from deploytool.hardware import BF16_CAPABILITY, Dtype, HardwareProfile, Scalar
from deploytool.models import Architecture, EngineSupport, ModelCard
from deploytool.planning import Engine

# Activations of these exceed float16's range (their own model cards say: bfloat16 or float32 only).
FP16_OVERFLOW = ("gemma", "gemma2", "gemma3", "gemma3_text", "t5", "mt5")
# NaNs in float16 were reported for these by users of text-embeddings-inference; bfloat16 is safe.
FP16_DOUBTFUL = ("qwen3",)


def choose_dtype(card: ModelCard, hardware: HardwareProfile) -> tuple[Dtype, str]:
    """The dtype to serve in, and why: the card's preference where GPU and model allow it."""
    if hardware.kind == "cpu" or hardware.capability is None:
        return "float32", "processors compute float32 best"
    if hardware.capability >= BF16_CAPABILITY:
        preferred = hardware.dtypes.preferred if hardware.dtypes else "bfloat16"
        if preferred == "float16" and overflows(card):
            return "bfloat16", f"{card.name} overflows in float16"
        return preferred, f"preferred on {hardware.name}"
    if overflows(card):
        return "float32", f"{card.name} overflows in float16, and {hardware.name} has no bfloat16"
    return "float16", f"compute capability {hardware.compute_capability} has no bfloat16 (needs 8.0)"


def check_dtype(dtype: Dtype, card: ModelCard, hardware: HardwareProfile) -> list[str]:
    """Warnings about a dtype; Incompatible where the card or the model cannot compute in it."""
    capability = hardware.capability
    if dtype == "bfloat16" and capability is not None and capability < BF16_CAPABILITY:
        raise Incompatible(
            f"bfloat16 needs compute capability 8.0, {hardware.name} has {hardware.compute_capability}",
            hint="--dtype float16" if not overflows(card) else "--dtype float32",
        )
    if hardware.dtypes is not None and dtype not in hardware.dtypes.allowed:
        raise Incompatible(
            f"the profile {hardware.name} does not allow {dtype}",
            hint=f"--dtype {hardware.dtypes.preferred} (allowed: {', '.join(hardware.dtypes.allowed)})",
        )
    if dtype != "float16":
        return []
    if overflows(card):
        raise Incompatible(
            f"{card.name} ({_model_type(card)}) overflows in float16: its vectors would hold NaN",
            hint="--dtype bfloat16, or --dtype float32 below compute capability 8.0",
        )
    if _model_type(card) in FP16_DOUBTFUL:
        return [f"float16: NaN was reported for {_model_type(card)} models; check with `deploytool smoke`"]
    return []


def overflows(card: ModelCard) -> bool:
    """Whether the model's activations are known to exceed float16."""
    return _model_type(card) in FP16_OVERFLOW


def tensor_parallel_problem(arch: Architecture, tp: int) -> str | None:
    """Why `tp` cards cannot share this model, None where they can. The padded vocabulary is no limit."""
    if arch.heads % tp:
        return f"{arch.heads} attention heads cannot be split over {tp} cards"
    if arch.kv_heads < tp and tp % arch.kv_heads:
        return f"{arch.kv_heads} key-value heads cannot be repeated over {tp} cards"
    if arch.kv_heads >= tp and arch.kv_heads % tp:
        return f"{arch.kv_heads} key-value heads cannot be split over {tp} cards"
    return None


def tensor_parallel_choices(arch: Architecture, limit: int) -> list[int]:
    """The tensor-parallel sizes 1, 2, 4, 8 up to `limit` that the model can be split into."""
    return [tp for tp in (1, 2, 4, 8) if tp <= limit and tensor_parallel_problem(arch, tp) is None]


def choose_engine(
    card: ModelCard, hardware: HardwareProfile, engines: Mapping[str, Engine], order: Sequence[str]
) -> tuple[str, list[str]]:
    """The first engine in `order` that serves the model right on this hardware, and what to tell the user.

    Incompatible (with every engine's reason) where there is none.
    """
    refused: list[tuple[str, EngineSupport]] = []
    for name in order:
        support = engines[name].support(card)
        if support.verdict != "ok":
            refused.append((name, support))
            continue
        unfit = engines[name].refuses(hardware)
        if unfit is None:
            notes = [
                f"took {name}: {other} would give wrong vectors ({why.reason or 'its model card says so'})"
                for other, why in refused
                if why.verdict == "wrong-vectors" and engines[other].refuses(hardware) is None
            ]
            return name, notes
        refused.append((name, EngineSupport(verdict="unsupported", reason=unfit)))
    raise Incompatible(
        f"no engine serves {card.name} on {hardware.name}",
        hint="`deploytool models list` shows which engine serves which model",
        details=[f"{name}: {why.verdict}{': ' + why.reason if why.reason else ''}" for name, why in refused],
    )


def check_engine(
    name: str, card: ModelCard, hardware: HardwareProfile, engines: Mapping[str, Engine]
) -> None:
    """Incompatible where the engine that the user asked for would not serve this model right here."""
    support = engines[name].support(card)
    if support.verdict == "ok":
        unfit = engines[name].refuses(hardware)
        if unfit is None:
            return
        support = EngineSupport(verdict="unsupported", reason=unfit)
    right = [
        other
        for other, engine in engines.items()
        if engine.support(card).verdict == "ok" and engine.refuses(hardware) is None
    ]
    fault = "gives wrong vectors for" if support.verdict == "wrong-vectors" else "does not serve"
    raise Incompatible(
        f"{name} {fault} {card.name}: {support.reason or 'its model card says so'}",
        hint=f"take --engine {right[0]}" if right else "no engine here serves it: choose another model",
    )


def _model_type(card: ModelCard) -> str:
    return card.architecture.model_type if card.architecture else ""


def cards_asked(given: Mapping[str, Scalar]) -> int:
    """How many cards the flags ask for; 1 where they say nothing, or nothing that can be read (yet)."""
    return _number(given.get("tensor_parallel", 1)) * _number(given.get("data_parallel", 1))


def _number(value: Scalar) -> int:
    text = str(value).strip()
    return int(text) if text.isdecimal() and int(text) else 1
