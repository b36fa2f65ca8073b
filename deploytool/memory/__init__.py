"""GPU memory of an embedding server: weights, pool or activations, context; lower, expected, upper.

Small pure functions in MiB, per card. Sources: SGLang 0.5.23 (`arg_groups/memory_hook.py`,
`mem_cache/kv_cache_configurator.py`) for its pool, a fake-tensor simulation of transformers for what its
prefill adds: SGLang's coefficients were not measured on hardware of ours, those of the SentenceTransformers
server were (`torch_memory`). An estimate is a range; what is measured of a server on a card corrects the next
estimate of it (`measured`).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from pydantic import Field

from deploytool.hardware import Dtype
from deploytool.models import Architecture
from deploytool.schema import Document

FitVerdict = Literal["fits", "tight", "does_not_fit", "unknown"]
MIB = 1024 * 1024
BYTES: dict[Dtype, int] = {"float32": 4, "float16": 2, "bfloat16": 2}


class Range(NamedTuple):
    """lower, expected and upper of one quantity, in MiB."""

    lower: float
    expected: float
    upper: float

    def plus(self, other: Range) -> Range:
        return Range(*(mine + its for mine, its in zip(self, other, strict=True)))

    def times(self, lower: float, expected: float, upper: float) -> Range:
        return Range(self.lower * lower, self.expected * expected, self.upper * upper)


# CUDA context with cuBLAS and the kernels of torch: about 0.65 GiB; more on cards with many kernels loaded.
GPU_CONTEXT = Range(450, 666, 900)
# SGLang keeps attention workspaces (FlashInfer: 384 MiB) and metadata: its own reserve counts 512 MiB.
SGLANG_WORKSPACE = Range(128, 512, 640)
SGLANG_GRAPH_MIB_PER_SIZE = 8


class MemoryEstimate(Document):
    """All in MiB, per card. `pool_mib` is SGLang's static token pool, None for engines without one.

    `profile_mib` is what an idle card of the profile gives, `available_mib` what the verdict is against: free
    memory now where it is known, else the profile. `left_free_mib` stays free of that at the expected use.
    """

    weights_mib: float
    pool_mib: float | None = None
    activations_mib: float
    context_mib: float
    lower_mib: float
    expected_mib: float
    upper_mib: float
    available_mib: float | None = None
    available_from: str = "profile"
    profile_mib: float | None = None
    left_free_mib: float | None = None
    rest_mib: float | None = Field(
        default=None, description="expected after the start, by formula alone: what a measurement is held to"
    )
    work_mib: float | None = Field(default=None, description="expected of a full forward pass, by formula")
    replicas: int | None = Field(
        default=None, description="of this server that one card holds, at their upper estimate"
    )
    calibration: str = Field(default="", description="which measurements corrected this; empty: none")
    verdict: FitVerdict = "unknown"
    reason: str = ""


def weights_mib(parameters: int, dtype: Dtype, *, tensor_parallel: int = 1) -> float:
    """Weights on one card; tensor parallelism splits every large matrix evenly."""
    return parameters * BYTES[dtype] / tensor_parallel / MIB


def kv_bytes_per_token(arch: Architecture, dtype: Dtype, *, tensor_parallel: int = 1) -> int:
    """Keys and values of one token on one card: layers·2·max(kv_heads/tp, 1)·head_dim·bytes."""
    heads = max(arch.kv_heads // tensor_parallel, 1)
    return arch.layers * 2 * heads * arch.head_dim * BYTES[dtype]


def activations(arch: Architecture, dtype: Dtype, *, tokens: int, tensor_parallel: int = 1) -> Range:
    """The largest tensors alive in one layer of a forward pass over `tokens` padded tokens.

    a = 1.35–1.7·e·(3·intermediate + 2·hidden) a token with a gated MLP, for BERT
    0.97–1.12·e·(2·intermediate + 3·hidden) (simulation, 8–19 % fit error). Tensor parallelism splits the
    intermediate, not the hidden.
    """
    inner = arch.intermediate / tensor_parallel
    if arch.swiglu:
        low, high, width = 1.35, 1.70, 3 * inner + 2 * arch.hidden
    else:
        low, high, width = 0.97, 1.12, 2 * inner + 3 * arch.hidden
    base = tokens * BYTES[dtype] * width / MIB
    return Range(base * low, base * (low + high) / 2, base * high)


def replicas_on_one_card(need: Range, available_mib: float | None) -> int | None:
    """How many such servers one card holds beside each other, at the upper estimate of each.

    One that only fits tightly counts as one; None where nothing says what is available.
    """
    if available_mib is None or need.upper <= 0:
        return None
    return max(int(available_mib // need.upper), 1 if need.expected <= available_mib else 0)


def sglang_chunk_default(total_mib: float | None) -> int:
    """The chunked prefill size that SGLang takes for a card of `total_mib`."""
    if total_mib is None:
        return 4096
    steps = ((20, 2048), (35, 4096), (60, 4096), (160, 8192))
    return next((size for limit_gib, size in steps if total_mib < limit_gib * 1024), 16384)


def sglang_decode_batch_default(total_mib: float, tensor_parallel: int) -> int:
    """The largest decode graph that SGLang reserves for on a card of `total_mib`."""
    small_tp = tensor_parallel < 4
    steps = ((20, 8, 8), (35, 48, 160), (60, 32, 160), (160, 256, 512))
    return next(
        (few if small_tp else many for limit_gib, few, many in steps if total_mib < limit_gib * 1024), 512
    )


def sglang_prefill_graphs(chunk: int) -> int:
    """How many prefill CUDA graphs SGLang captures up to `chunk` tokens (50 for 4096)."""
    steps = (
        (4, 33, 4),
        (48, 257, 16),
        (288, 513, 32),
        (576, 1025, 64),
        (1280, 4097, 256),
        (4608, chunk + 1, 512),
    )
    return sum(1 for start, stop, step in steps for size in range(start, stop, step) if size <= chunk)


def sglang_reserve_mib(
    total_mib: float, chunk: int, *, tensor_parallel: int = 1, prefill_graphs: bool = True
) -> float:
    """What SGLang keeps for activations and graphs: 512 + 1.5·max(C, 2048) + 128·tp + 2·bs + 8·graphs.

    Cards over 60 GiB keep at least 10 GiB. `chunk` must be positive: with -1 SGLang counts its
    `max_prefill_tokens`, so give that here.
    """
    reserve = 512 + 1.5 * max(chunk, 2048) + 128 * tensor_parallel
    reserve += 2 * sglang_decode_batch_default(total_mib, tensor_parallel)
    if prefill_graphs:
        reserve += SGLANG_GRAPH_MIB_PER_SIZE * sglang_prefill_graphs(chunk)
    return max(reserve, 10 * 1024) if total_mib > 60 * 1024 else reserve


def sglang_fraction(total_mib: float, reserve_mib: float) -> float:
    """SGLang's `mem_fraction_static`: (weights + pool) over the card, to three decimals."""
    return round((total_mib - reserve_mib) / total_mib, 3)


def request_table_mib(pool_tokens: int, context_length: int) -> float:
    """SGLang's request-to-token table: 2048 to 4096 rows of `context_length` 4-byte slots."""
    rows = max(min(int(pool_tokens / context_length * 512), 4096), 2048)
    return (min(rows, pool_tokens // 2) + 1) * (context_length + 4) * 4 / MIB


def judge(need: Range, available_mib: float | None) -> FitVerdict:
    """fits: the upper estimate does; tight: the expected one does, the upper one does not."""
    if available_mib is None:
        return "unknown"
    if need.upper <= available_mib:
        return "fits"
    return "tight" if need.expected <= available_mib else "does_not_fit"
