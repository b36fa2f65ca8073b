"""What differs from one version of SGLang to the next: one `Knowledge` for each version that was read.

Read from the wheel of 0.5.23 and seen on a real server. To add a version:

1. read its `server_args.py`, `arg_groups/` (defaults, memory), `configs/embedding_model_spec.py` (pooling);
2. write a `Knowledge` (`dataclasses.replace` of the one before, with what changed) into `KNOWN`, newest last;
3. run `tests/engines/` with it: its own parser reads every command line, and real vectors are compared.

The memory formula lies in `deploytool.memory` under SGLang's name; a version that changes it gets its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

# FlashInfer and FlashAttention compute float16 and bfloat16 only; FlashInfer's prefill kernels are built for
# these head sizes. Triton's kernels take the others.
HALF_KERNEL_HEADS = (64, 128, 256)


@dataclass(frozen=True)
class Quantization:
    """A way to store weights. `bits` of a linear layer's value, scales included (groups of 128).

    `online`: SGLang makes it of 16-bit weights while it loads, which are on the card until then.
    `capability`: lowest compute capability (`get_min_capability` of its class).
    `dtypes`: activations that its kernels take. `reads`: `quant_method` of checkpoints that it takes.
    """

    bits: float
    capability: tuple[int, int]
    dtypes: tuple[str, ...] = ("bfloat16", "float16")
    online: bool = False
    reads: tuple[str, ...] = ()


@dataclass(frozen=True)
class Knowledge:
    """One version: its pooling by class (hard-coded, never MEAN), its rerankers, its flags and limits."""

    version: str
    lowest_capability: tuple[int, int]
    pooling: Mapping[str, str]
    bidirectional: tuple[str, ...]
    rerankers: Mapping[str, str]  # class -> the template of its prompt, in profiles/templates/
    quantizations: Mapping[str, Quantization]
    attention_backends: tuple[str, ...]
    # Images and the lowest driver they run with: CUDA 13 wants 580, CUDA 12 (by minor compatibility) 525.
    # Source: NVIDIA's CUDA release notes; v0.5.19-cu129 is the last image for CUDA 12.
    images: tuple[tuple[str, int], ...]
    flags: Mapping[str, str]  # setting -> flag, where it is not the setting's own name


_GROUPED_4_BIT = 4 + (16 + 4) / 128  # a 16-bit scale and a 4-bit zero for 128 values

V0_5_23 = Knowledge(
    version="0.5.23",
    lowest_capability=(7, 5),
    # models/*.py; what has no class falls back to CLS or LAST.
    pooling={
        "Qwen3ForCausalLM": "last",
        "Qwen3Model": "last",
        "Qwen2ForCausalLM": "last",
        "MistralModel": "last",
        "LlamaEmbeddingModel": "last",
        "BertModel": "cls",
        "XLMRobertaModel": "cls",
    },
    bidirectional=("BertModel", "XLMRobertaModel"),
    # entrypoints/openai/serving_rerank.py: a decoder is recognised by the words of its template.
    rerankers={"Qwen3ForCausalLM": "qwen3-reranker.jinja"},
    # layers/quantization/: fp8 below capability 8.9 computes in 16 bit (Marlin); awq and gptq become their
    # Marlin kinds by themselves from 8.0 on.
    quantizations={
        "fp8": Quantization(8, (8, 0), online=True, reads=("fp8",)),
        "awq": Quantization(_GROUPED_4_BIT, (7, 5), dtypes=("float16",), reads=("awq",)),
        "gptq": Quantization(_GROUPED_4_BIT, (7, 5), dtypes=("float16",), reads=("gptq",)),
        "awq_marlin": Quantization(_GROUPED_4_BIT, (8, 0), reads=("awq",)),
        "gptq_marlin": Quantization(_GROUPED_4_BIT, (8, 0), reads=("gptq",)),
        "w8a8_int8": Quantization(8, (7, 5), reads=("compressed-tensors", "w8a8_int8")),
        "w8a8_fp8": Quantization(8, (8, 9), reads=("compressed-tensors", "w8a8_fp8")),
    },
    attention_backends=(
        "triton", "torch_native", "flex_attention", "fa3", "fa4", "flashinfer", "intel_amx",
    ),
    images=(("lmsysorg/sglang:v0.5.23", 580), ("lmsysorg/sglang:v0.5.19-cu129", 525)),
    flags={"tensor_parallel": "tensor-parallel-size", "data_parallel": "data-parallel-size"},
)  # fmt: skip

KNOWN: tuple[Knowledge, ...] = (V0_5_23,)
VERSIONS = tuple(known.version for known in KNOWN)
LATEST = KNOWN[-1]


def knowledge(version: str | None) -> Knowledge:
    """What to go by for an installed version: its own, else that of the newest known one before it.

    None (not installed here): the latest. An older one than all known: the oldest.
    """
    if version is None:
        return LATEST
    wanted = _numbers(version)
    before = [known for known in KNOWN if _numbers(known.version) <= wanted]
    return before[-1] if before else KNOWN[0]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version.partition("+")[0])[:3])
