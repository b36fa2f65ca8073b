"""What the SentenceTransformers server takes: torch's context, weights, and its largest forward pass. MiB.

Measured on one NVIDIA H100 80GB HBM3 (driver 580.159, CUDA 13.0, torch 2.11, transformers 5.17, bfloat16) with
random weights of the real shapes of all-minilm-l6-v2, bge-m3, qwen3-0.6b and qwen3-4b, batches of 2,048 to
16,384 padded tokens and texts of 128 to 8,192 (`benchmarks/gpu_memory.py`). Peaks of torch's allocator are met
within 3 %; what NVML shows beside that is the allocator's slack, which the range is for. The server keeps no
keys and values (`use_cache` off); what they took was measured and taken off.
"""

from __future__ import annotations

from deploytool.hardware import Dtype
from deploytool.memory import BYTES, MIB, Range
from deploytool.models import Architecture

# 686 for CUDA's context with its libraries and kernels, 32 for cuBLAS' workspace: the same for all four models.
# Cards with fewer multiprocessors hold less of it; none of those was measured.
CONTEXT = Range(400, 718, 900)
# A Python process with torch, transformers and the HTTP server, without weights (resident): about 430 seen.
CPU_CONTEXT = Range(350, 450, 750)
# Large tensors are rounded up to 2 MiB: 0.0 to 0.7 % of the weights, and a segment that is half empty.
WEIGHTS_SLACK = Range(1.0, 1.01, 1.03)
# Freed blocks that no later tensor fits into: 1.05 to 1.56 times the tensors were held, 1.2 in the middle.
WORK_SLACK = Range(1.0, 1.2, 1.6)
MASK_BYTES = 1  # a boolean of each pair of tokens; attention makes one of the model's dtype of it


def forward(arch: Architecture, dtype: Dtype, *, tokens: int, longest: int) -> float:
    """The most that the tensors of one layer take over `tokens` padded tokens of texts up to `longest`.

    In the MLP: e·(3·intermediate + 4·hidden) a token where it is gated, else e·(2·intermediate + 3·hidden). In
    attention: e·(3·hidden + 4·queries + 2·keys), or e·(hidden + 4·queries). Where several texts are padded
    there is a mask of tokens·longest booleans throughout, and one of the dtype while attention computes.
    """
    size, queries, keys = BYTES[dtype], arch.heads * arch.head_dim, arch.kv_heads * arch.head_dim
    if arch.swiglu:
        mlp, attention = 3 * arch.intermediate + 4 * arch.hidden, 3 * arch.hidden + 4 * queries + 2 * keys
    else:
        mlp, attention = 2 * arch.intermediate + 3 * arch.hidden, arch.hidden + 4 * queries
    pairs = min(longest, tokens // 2)  # one text alone has no padding, and no mask
    most = max(mlp * size + MASK_BYTES * pairs, attention * size + (MASK_BYTES + size) * pairs)
    return tokens * most / MIB


def parts(weights: float, work: float, context: Range) -> tuple[Range, Range]:
    """What torch holds at rest, and what a forward pass adds. Their sum is the server's peak."""
    rest = Range(weights, weights, weights).times(*WEIGHTS_SLACK).plus(context)
    return rest, Range(work, work, work).times(*WORK_SLACK)
