"""What is known of SGLang: settings, hazards, log lines, causes of a failed start.

What differs by version (pooling, flags, limits, images) lies in `sglang_versions`.
"""

from __future__ import annotations

import re

from deploytool.engines import common
from deploytool.engines.faults import COMMON, Fault
from deploytool.engines.sglang_versions import LATEST
from deploytool.planning import AUTO
from deploytool.settings import Setting

NAME = "sglang"
PORT = 30000
NO_POOLING = "nothing says how its vectors are pooled (1_Pooling/config.json or `pooling` in its card)"

HAZARDS = (
    "a token id outside the vocabulary, or POST /v1/completions, ends an SGLang server: keep strangers away",
    "SGLang's control endpoints had remote code execution: never expose it without a proxy and a key",
)

SETTINGS = (
    *common.network_settings(PORT),
    *common.MODEL_SETTINGS,
    Setting(
        name="data_parallel",
        type="int",
        minimum=1,
        words=(AUTO,),
        default=1,
        help="copies of the model, each on cards of its own; auto: as many as the cards left over hold",
    ),
    Setting(
        name="quantization",
        type="str",
        choices=tuple(LATEST.quantizations),
        help="fp8 is made while loading; the others need weights that were stored so",
    ),
    Setting(name="chunked_prefill_size", type="int", minimum=128, help="tokens of one prefill of a decoder"),
    Setting(name="max_prefill_tokens", type="int", minimum=128, help="tokens admitted to one prefill"),
    Setting(name="max_total_tokens", type="int", minimum=256, help="tokens that the pool holds"),
    Setting(
        name="mem_fraction_static",
        type="float",
        minimum=0.01,
        maximum=0.99,
        help="share of the card for weights and pool; given without max_total_tokens the pool fills it",
    ),
    Setting(
        name="max_running_requests", type="int", minimum=1, help="texts in one step (SGLang: 2048 to 4096)"
    ),
    Setting(
        name="attention_backend",
        type="str",
        choices=LATEST.attention_backends,
        help="attention kernels (SGLang chooses by the card)",
    ),
    Setting(name="disable_radix_cache", type="bool", default=False, help="no reuse of common beginnings"),
    Setting(
        name="allow_auto_truncate", type="bool", default=False, help="cut over-long texts, not answer 400"
    ),
    Setting(name="enable_metrics", type="bool", default=True, help="Prometheus metrics at /metrics"),
    Setting(name="matryoshka", type="str", help="sizes that `dimensions` may ask for: 64,128,256, or any"),
    Setting(
        name="chat_template",
        type="str",
        help="file (.jinja) with the prompt of a reranker; its card's own by default",
    ),
)
FAULTS = (
    Fault(
        r"Not enough memory\. Please try to increase --mem-fraction-static|Memory pool size is too small",
        "out_of_memory",
        "the weights leave no room for the token pool",
        "free the card, lower --seq-len, or raise it: --set mem_fraction_static=0.9",
    ),
    Fault(
        r"memory capacity is unbalanced",
        "out_of_memory",
        "another program holds memory of one of the cards",
        "`nvidia-smi` shows which; choose free cards with --gpu",
    ),
    Fault(
        r"quantization method \S+ is not supported for the current GPU"
        r"|is not supported for quantization method",
        "compute_capability",
        "this card, or the dtype, has no kernels for the quantization asked for",
        "leave --set quantization out, or take --set quantization=fp8 (compute capability 8.0 or above)",
    ),
    Fault(
        r"Could not load any common_ops library",
        "compute_capability",
        "SGLang's kernels have no build for this card or this CUDA",
        "install the sglang build for your CUDA version, or take --engine sentence-transformers",
    ),
    Fault(
        r"'\w*Config' object has no attribute '(\w+)'",
        "unknown",
        "SGLang wants a value that the model's config.json does not have",
        'add it to config.json; for position_embedding_type of a BERT it is "absolute"',
    ),
    *COMMON,
)
# Log lines of model_runner.py, kv_cache_configurator.py, cuda_graph_setup.py and http_server.py.
STAGES = (
    (
        re.compile(r"(?:Loading safetensors checkpoint|Multi-thread loading) shards:.*\b(\d+)%"),
        "loading weights {}%",
    ),
    (re.compile(r"Load weight begin"), "loading weights"),
    (re.compile(r"Load weight end"), "weights loaded"),
    (re.compile(r"KV Cache is allocated|Memory pool end"), "token pool allocated"),
    (re.compile(r"Capture .*graph.* begin"), "capturing CUDA graphs"),
    (re.compile(r"Uvicorn running on|Application startup complete"), "HTTP server up, warming up"),
    (re.compile(r"fired up and ready to roll"), "ready"),
)
