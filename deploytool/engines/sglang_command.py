"""The command line of SGLang: flags, model override, environment and where the API key goes."""

from __future__ import annotations

import json
from collections.abc import Mapping

from deploytool.engines import common
from deploytool.engines.sglang_sizing import Sizer
from deploytool.engines.sglang_versions import Knowledge
from deploytool.errors import BadInput
from deploytool.launch import SecretUse
from deploytool.models import Matryoshka
from deploytool.planning import PlanRequest
from deploytool.settings import Value

SIZED = (
    "context_length",
    "chunked_prefill_size",
    "max_prefill_tokens",
    "max_total_tokens",
    "mem_fraction_static",
    "max_running_requests",
    "attention_backend",
    "quantization",
    "chat_template",
)


def matryoshka_sizes(matryoshka: Matryoshka | None) -> str | None:
    """The sizes that SGLang is told; of a range the usual ones, because it takes a list."""
    if matryoshka is None:
        return None
    sizes = sorted(matryoshka.sizes)
    if not sizes:
        usual = {2**power for power in range(4, 14)} | {3 * 2**power for power in range(4, 12)}
        sizes = sorted(size for size in usual | {matryoshka.maximum or 0} if matryoshka.allows(size))
    return ",".join(map(str, sizes))


def describe_sizes(matryoshka: Matryoshka | None) -> str:
    """Why these sizes."""
    if matryoshka is None:
        return "the model's vectors cannot be cut"
    if matryoshka.sizes:
        return "the model card's sizes"
    return f"usual sizes from {matryoshka.minimum} to {matryoshka.maximum}: SGLang takes a list; or any"


def _override(sizes: str) -> str:
    """SGLang's model override that lets clients ask for `dimensions`; BadInput for sizes that are none."""
    if sizes == "any":
        return json.dumps({"is_matryoshka": True}, separators=(",", ":"))
    numbers = [part.strip() for part in sizes.split(",")]
    if not all(part.isdecimal() and int(part) for part in numbers):
        raise BadInput(f"matryoshka: expected sizes such as 64,128,256, or any; got {sizes!r}")
    document = {"is_matryoshka": True, "matryoshka_dimensions": [int(part) for part in numbers]}
    return json.dumps(document, separators=(",", ":"))


def argv(
    values: Mapping[str, Value],
    path: str,
    host: str,
    port: int,
    sizer: Sizer,
    request: PlanRequest,
    known: Knowledge,
) -> tuple[str, ...]:
    """The command line; full flag names only, no secret."""
    value = {name: entry.value for name, entry in values.items()}

    def flag(name: str) -> str:
        return f"--{known.flags.get(name, name.replace('_', '-'))}"

    words = ["sglang", "serve", "--model-path", path]
    if not sizer.scores_pairs:
        words.append("--is-embedding")
    words += ["--served-model-name", str(value["served_model_name"])]
    words += ["--host", host, "--port", common.port_word(port)]
    words += ["--dtype", str(value["dtype"]), flag("tensor_parallel"), str(value["tensor_parallel"])]
    if value["data_parallel"] not in (None, 1):
        words += [flag("data_parallel"), str(value["data_parallel"])]
    for name in SIZED:
        if value.get(name) is not None:
            words += [flag(name), str(value[name])]
    words += ["--load-format", "safetensors"]
    for name in ("disable_radix_cache", "allow_auto_truncate", "trust_remote_code", "enable_metrics"):
        if value[name]:
            words.append(flag(name))
    if value["revision"] is not None and not common.is_folder(path):
        words += ["--revision", str(value["revision"])]
    if value["matryoshka"] is not None:
        words += ["--json-model-override-args", _override(str(value["matryoshka"]))]
    if sizer.on_cpu:
        words += ["--device", "cpu"]
    elif sizer.whole_texts:
        words += ["--cuda-graph-backend-prefill", "disabled"]
    elif sizer.scores_pairs:
        # A score is read off the prompt's last token: no token is ever generated.
        words += ["--cuda-graph-backend-decode", "disabled"]
    return (*words, *common.key_words(request))


def environment(path: str, on_cpu: bool) -> dict[str, str]:
    """Nothing is asked of a hub for a local folder; processors need SGLang's own switch."""
    env = {"HF_HUB_OFFLINE": "1"} if common.is_folder(path) else {}
    return env | ({"SGLANG_USE_CPU_ENGINE": "1"} if on_cpu else {})


def secret(request: PlanRequest) -> SecretUse | None:
    """SGLang reads its key from a YAML file; JSON quoting keeps any key a text there.

    It also prints the key among its settings when it starts: a runtime must strike it out of the log.
    """
    if not request.with_key:
        return None
    return SecretUse(kind="file", template="api-key: {key}\n", quoting="json")
