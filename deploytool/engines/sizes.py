"""What sizing starts from and ends in: weights, available memory, the lengths to try, the memory document."""

from __future__ import annotations

from typing import NamedTuple

from deploytool.errors import BadInput, Incompatible
from deploytool.hardware import Dtype, HardwareProfile
from deploytool.memory import (
    BYTES,
    MIB,
    MemoryEstimate,
    Range,
    judge,
    replicas_on_one_card,
    weights_mib,
)
from deploytool.memory.measured import Correction, Measured, correction
from deploytool.models import Architecture, ModelCard, linear_parameters, parameter_count
from deploytool.planning import PlanRequest
from deploytool.settings import Resolver

DEFAULT_LONGEST = 8192
LENGTHS = (8192, 4096, 2048, 1024, 512, 256)


class Stored(NamedTuple):
    """How quantised weights are stored. `online`: they are made of 16-bit weights on the card."""

    method: str
    bits: float
    online: bool


class Basis(NamedTuple):
    """What sizing starts from. MiB per card; `total_mib` and `available_mib` None where nothing says."""

    arch: Architecture
    parameters: int
    dtype: Dtype
    total_mib: float | None
    available_mib: float | None
    available_from: str
    profile_mib: float | None
    stored: Stored | None = None
    stored_bytes: int | None = None
    measured: tuple[Measured, ...] = ()

    def weights(self, cards: int = 1) -> float:
        """MiB of weights on each of `cards` cards that share them."""
        if self.stored is None:
            return weights_mib(self.parameters, self.dtype, tensor_parallel=cards)
        if self.stored_bytes is not None:
            return self.stored_bytes / cards / MIB
        linear = min(linear_parameters(self.arch) or 0, self.parameters)
        size = linear * self.stored.bits / 8 + (self.parameters - linear) * BYTES[self.dtype]
        return size / cards / MIB

    def loading(self, cards: int = 1) -> float:
        """MiB of weights on each card while they are loaded: 16-bit ones, where they are quantised there."""
        if self.stored is None or not self.stored.online:
            return self.weights(cards)
        return weights_mib(self.parameters, self.dtype, tensor_parallel=cards)

    def correction(self, cards: int = 1) -> Correction | None:
        """What was measured of such a server on this card; None: nothing was."""
        if not self.measured:
            return None
        method = self.stored.method if self.stored else None
        return correction(self.measured, dtype=self.dtype, tensor_parallel=cards, quantization=method)

    def need(self, rest: Range, work: Range, cards: int = 1) -> Range:
        """What a server needs: the formulas' sum, corrected by what was measured."""
        corrected = self.correction(cards)
        return rest.plus(work) if corrected is None else corrected.apply(rest, work)


def basis(
    card: ModelCard,
    hardware: HardwareProfile,
    request: PlanRequest,
    dtype: Dtype,
    *,
    lm_head: bool,
    stored: Stored | None = None,
) -> Basis:
    """Weights and memory to plan with; Incompatible where nothing says how big the model is.

    `lm_head`: the engine also allocates an output layer that is not tied to the embeddings.
    """
    arch = card.architecture
    if arch is None:
        raise Incompatible(
            f"nothing says how {card.name} is built: it has no architecture to size memory by",
            hint="add `architecture` to its model card, or give the folder of the model with its config.json",
        )
    count = parameter_count(arch)
    parameters = request.parameters or card.parameters or count
    if parameters is None and request.weights_bytes and card.quantization is None:
        parameters = request.weights_bytes // BYTES[card.weights_dtype or "float32"]
    if parameters is None:
        raise Incompatible(
            f"nothing says how many parameters {card.name} has",
            hint="add `parameters` to its model card, or fetch the model's files first",
        )
    if lm_head and count is not None and parameters <= count:
        parameters += (parameter_count(arch, head=True) or count) - count
    available, source = available_memory(hardware, request)
    return Basis(
        arch=arch,
        parameters=parameters,
        dtype=dtype,
        total_mib=hardware.memory_mib,
        available_mib=available,
        available_from=source,
        profile_mib=hardware.usable_mib,
        stored=stored,
        stored_bytes=request.weights_bytes if stored is not None and card.quantization else None,
        measured=request.measured,
    )


def available_memory(hardware: HardwareProfile, request: PlanRequest) -> tuple[float | None, str]:
    """What can be had on one card in MiB (None: unknown) and where that figure is from."""
    if request.free_mib is not None:
        return request.free_mib, request.free_from
    if hardware.usable_mib is not None:
        return hardware.usable_mib, "profile (usable memory of one idle card)"
    if hardware.memory_mib is not None:
        return hardware.memory_mib, "profile (memory of one card)"
    if hardware.kind == "cpu":
        return None, "unknown: this machine's memory was not read"
    return None, f"unknown: the profile {hardware.name} names no memory (it differs by module)"


def lengths(values: Resolver, card: ModelCard) -> list[int]:
    """Longest texts to try, largest first: what was asked for, or 8192 and less as the model reads."""
    given = values.given("max_length")
    limit = card.max_tokens or (card.architecture.max_positions if card.architecture else None)
    if given is not None:
        length = int(str(given.value))
        if limit is not None and length > limit:
            raise BadInput(
                f"{card.name} reads {limit} tokens of a text, not {length}", hint=f"--seq-len {limit} or less"
            )
        return [length]
    largest = min(limit or DEFAULT_LONGEST, DEFAULT_LONGEST)
    return [largest, *(length for length in LENGTHS if length < largest)]


def explain_length(values: Resolver, card: ModelCard, length: int, *, fits: bool) -> None:
    """Resolve `max_length` to what was chosen, and why."""
    limit = card.max_tokens
    largest = min(limit or DEFAULT_LONGEST, DEFAULT_LONGEST)
    if not fits:
        why = "the shortest that was tried: even that does not fit"
    elif length == limit:
        why = "what the model reads"
    elif length < largest:
        why = f"the longest of {', '.join(map(str, LENGTHS))} that fits"
    else:
        why = f"enough for most texts; the model reads {limit or 'more'}"
    values.resolve("max_length", length, why)


def note_shortened(values: Resolver, card: ModelCard, length: int, warnings: list[str]) -> None:
    """Warn where memory, not the user, made texts shorter than this tool usually plans for."""
    usual = min(card.max_tokens or DEFAULT_LONGEST, DEFAULT_LONGEST)
    if length < usual and values.given("max_length") is None:
        reads = card.max_tokens or "more"
        warnings.append(
            f"texts are limited to {length} tokens, because more does not fit; the model reads {reads}"
        )


class Parts(NamedTuple):
    """What an estimate is made of, by formula. MiB per card; `pool` None for an engine without one."""

    weights: float
    pool: float | None
    rest: Range
    work: Range
    context: float
    beside_weights: float = 0.0  # held at rest beside weights, pool and context: tables, graphs, workspaces


def estimate(parts: Parts, sizes: Basis, *, cards: int = 1, need: Range | None = None) -> MemoryEstimate:
    """The memory document: what is needed against what is available, both per card.

    `need`: where it is more than the corrected sum of the parts, as while weights are loaded.
    """
    need = sizes.need(parts.rest, parts.work, cards) if need is None else need
    corrected = sizes.correction(cards)
    verdict = judge(need, sizes.available_mib)
    left = None if sizes.available_mib is None else round(sizes.available_mib - need.expected, 1)
    return MemoryEstimate(
        weights_mib=round(parts.weights, 1),
        pool_mib=None if parts.pool is None else round(parts.pool, 1),
        activations_mib=round(parts.work.expected + parts.beside_weights, 1),
        context_mib=round(parts.context, 1),
        lower_mib=round(need.lower, 1),
        expected_mib=round(need.expected, 1),
        upper_mib=round(need.upper, 1),
        available_mib=None if sizes.available_mib is None else round(sizes.available_mib, 1),
        available_from=sizes.available_from,
        profile_mib=sizes.profile_mib,
        left_free_mib=left,
        rest_mib=round(parts.rest.expected, 3),
        work_mib=round(parts.work.expected, 3),
        replicas=replicas_on_one_card(need, sizes.available_mib),
        calibration=corrected.said if corrected else "",
        verdict=verdict,
        reason=_reason(verdict, need, sizes),
    )


def _reason(verdict: str, need: Range, sizes: Basis) -> str:
    if verdict == "unknown":
        return sizes.available_from.removeprefix("unknown: ")
    if verdict == "fits":
        return ""
    if verdict == "tight":
        return f"the upper estimate, {need.upper:,.0f} MiB, is above what is available"
    return f"needs about {need.expected:,.0f} MiB of {sizes.available_mib:,.0f} MiB"


def mib(tokens: int, bytes_per_token: int) -> float:
    return tokens * bytes_per_token / MIB
