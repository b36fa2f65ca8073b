"""SentenceTransformers behind this tool's own server (`python -m deploytool.st_server`).

It computes what a model ships (pooling, normalisation) as its authors do, on a card or on processors. There
is no static pool: the peak follows the largest forward pass, which `max_batch_tokens` bounds.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import sys

from deploytool import __version__
from deploytool.engines import common, sizes
from deploytool.engines.faults import COMMON, Fault, classify
from deploytool.engines.st_sizing import size
from deploytool.errors import BadInput
from deploytool.hardware import HardwareProfile
from deploytool.launch import LaunchSpec, Readiness, SecretUse
from deploytool.models import EngineSupport, Matryoshka, ModelCard
from deploytool.planning import Cause, EngineImage, Plan, PlanRequest
from deploytool.settings import Resolver, Setting

NAME = "sentence-transformers"
IMAGE = "deploytool/st-server"
PORT = 8080
KEY_VARIABLE = "DEPLOYTOOL_API_KEY"
# What the server needs beside torch's own; any of them missing means: not installed.
MODULES = ("sentence_transformers", "torch", "starlette", "uvicorn", "prometheus_client")

SETTINGS = (
    *common.network_settings(PORT),
    *common.MODEL_SETTINGS,
    Setting(name="device", type="str", help="cpu, cuda or cuda:N"),
    Setting(
        name="max_batch_tokens",
        type="int",
        minimum=16,
        help="padded tokens of one forward pass: bounds the memory",
    ),
    Setting(name="max_queue", type="int", minimum=1, default=2048, help="texts that may wait; beyond it 429"),
    Setting(name="max_texts", type="int", minimum=1, default=2048, help="texts of one request"),
    Setting(name="threads", type="int", minimum=1, help="processor threads that compute"),
    common.POOLING,
    Setting(
        name="backend",
        type="str",
        choices=("auto", "torch", "onnx", "openvino"),
        help="auto: on processors the fastest installed one whose vectors are those of torch",
    ),
    Setting(name="matryoshka", type="str", help="sizes that `dimensions` may ask for: 64,128,256 or 32-1024"),
)
FAULTS = (
    Fault(
        r"out of memory|does not fit into memory",
        "out_of_memory",
        "memory ran out",
        "lower --seq-len or --batch",
    ),
    Fault(r"is gated", "gated_model", "the model is gated", "accept its terms, and set HF_TOKEN"),
    Fault(
        r"code of its repository", "remote_code", "the model needs code of its repository", "read it first"
    ),
    Fault(
        r"HF_HUB_OFFLINE|could not be fetched", "offline", "the hub was not reached", "give a local folder"
    ),
    Fault(
        r"there is no folder|holds no model|holds no \*\.safetensors|the hub has no"
        r"|neither a folder nor a hub id",
        "missing_model",
        "the model's files were not found",
        "check the name or the folder",
    ),
    Fault(
        r"needs the package|needs a package",
        "missing_package",
        "a package is missing",
        "install deploytool[serve]",
    ),
    Fault(
        r"unrecognized arguments|^argument --", "bad_flag", "the server does not take a flag", "see --help"
    ),
    Fault(
        r"No module named '?(?:sentence_transformers|torch|starlette|uvicorn|prometheus_client)",
        "missing_package",
        "the server's packages are not installed",
        "pip install 'deploytool[serve]'",
    ),
    *COMMON,
)
# The server says where it is and why it ends in lines of its own (st_server/stages.py).
STAGE = re.compile(r"^stage: (.+)$")
FATAL = re.compile(r"^fatal: (.+)(?:\nhint: (.+))?$", re.MULTILINE)


class SentenceTransformers:
    """See planning.Engine."""

    name = NAME
    install = "pip install 'deploytool[serve]'"
    versions: tuple[str, ...] = ("5", "6")
    settings: tuple[Setting, ...] = SETTINGS
    hazards: tuple[str, ...] = ()

    def support(self, card: ModelCard) -> EngineSupport:
        if card.gguf is not None:
            return common.GGUF
        if NAME in card.engines:
            return card.engines[NAME]
        if card.kind == "api":
            return EngineSupport(verdict="unsupported", reason="a hosted API runs at its provider")
        if card.kind == "reranker":
            return _reranking(card)
        return EngineSupport(verdict="ok", reason="pooling and normalisation as the model ships them")

    def refuses(self, hardware: HardwareProfile) -> str | None:  # noqa: ARG002 - torch runs on all of them
        return None

    def plan(self, card: ModelCard, hardware: HardwareProfile, request: PlanRequest) -> Plan:
        values = common.resolver(NAME, SETTINGS, card, hardware, request)
        warnings: list[str] = []
        host, port = common.resolve_network(values, request)
        dtype = common.resolve_dtype(values, card, hardware, warnings)
        if values.resolve("tensor_parallel", 1, "this engine computes on one card") != 1:
            raise BadInput(
                f"{NAME} computes on one card", hint="leave --tp out, or take --engine sglang for several"
            )
        on_cpu = hardware.kind == "cpu"
        basis = sizes.basis(card, hardware, request, dtype, lm_head=False)
        memory = size(values, card, basis, on_cpu, warnings)
        common.resolve_remote_code(values, card, warnings)
        _resolve_rest(values, card, request, on_cpu, warnings)
        path = request.model_path or card.hub_id or card.name
        launch = LaunchSpec(
            engine=NAME,
            engine_version=self.installed(),
            argv=_argv(values, card, path, host, port),
            env={"HF_HUB_OFFLINE": "1"} if common.is_folder(path) else {},
            secret=SecretUse(kind="env", name=KEY_VARIABLE, file_flag="--api-key-file")
            if request.with_key
            else None,
            model=str(values.values["served_model_name"].value),
            model_path=path,
            host=host,
            port=port,
            devices=() if on_cpu else (0,),
            readiness=Readiness(path="/ready", probe_timeout_s=5, start_timeout_s=900),
            program="python3",
            read_only_root=True,
        )
        return common.finish(card, hardware, values, memory, launch, warnings)

    def image(self, hardware: HardwareProfile, driver: str | None) -> EngineImage:  # noqa: ARG002
        """Our own server's image, which `deploytool image build` makes: one for processors, one for cards."""
        return EngineImage(name=f"{IMAGE}:{__version__}-{'cpu' if hardware.kind == 'cpu' else 'cuda'}")

    def installed(self) -> str | None:
        """The version of sentence-transformers where all that the server imports is beside this tool."""
        if any(importlib.util.find_spec(module) is None for module in MODULES):
            return None
        try:
            return importlib.metadata.version("sentence-transformers")
        except importlib.metadata.PackageNotFoundError:
            return None

    def stage(self, line: str) -> str | None:
        found = STAGE.search(line.rstrip())
        return found.group(1) if found else None

    def diagnose(self, log_tail: str) -> Cause | None:
        fatal = FATAL.findall(log_tail)
        if not fatal:
            return classify(log_tail, FAULTS)
        message, hint = fatal[-1]
        known = classify(message, FAULTS)
        if known is None:
            return Cause(name="unknown", message=message, hint=hint or "the last lines of the log say more")
        return Cause(name=known.name, message=message, hint=hint or known.hint)


def _reranking(card: ModelCard) -> EngineSupport:
    """A CrossEncoder has a head that scores a pair of texts; a decoder that answers yes or no has none."""
    if card.architecture is not None and card.architecture.class_name.endswith("ForCausalLM"):
        return EngineSupport(
            verdict="unsupported", reason="a decoder that answers yes or no behind a prompt: no CrossEncoder"
        )
    return EngineSupport(verdict="ok", reason="a CrossEncoder: scores pairs at /v1/rerank")


def _resolve_rest(
    values: Resolver, card: ModelCard, request: PlanRequest, on_cpu: bool, warnings: list[str]
) -> None:
    values.resolve("device", "cpu" if on_cpu else "cuda", "by the hardware profile")
    # torch until asked otherwise: the others must first export the model, which takes a start of its own.
    chosen_backend = values.resolve(
        "backend", "torch", "the reference; onnx, openvino or auto are faster on CPUs"
    )
    if chosen_backend in ("onnx", "openvino") and not on_cpu:
        raise BadInput("onnx and openvino compute on processors", hint="leave backend out")
    if chosen_backend != "torch" and card.kind == "reranker":
        raise BadInput("a reranker is computed by torch", hint="leave backend out")
    values.resolve("served_model_name", card.name, "the model card's name")
    values.resolve("max_queue")
    values.resolve("max_texts")
    if on_cpu and request.cpus is not None:
        values.resolve("threads", request.cpus, "physical cores that this process may use")
    else:
        values.resolve("threads", why="the server's own: processors that it may use")
    why = "the model card's sizes" if card.matryoshka else "the model's vectors cannot be cut"
    values.resolve("matryoshka", _sizes(card.matryoshka), why)
    common.resolve_pooling(values, card, warnings)


def _sizes(matryoshka: Matryoshka | None) -> str | None:
    if matryoshka is None:
        return None
    if matryoshka.sizes:
        return ",".join(map(str, sorted(matryoshka.sizes)))
    return f"{matryoshka.minimum}-{matryoshka.maximum}"


def _argv(values: Resolver, card: ModelCard, path: str, host: str, port: int) -> tuple[str, ...]:
    value = {name: entry.value for name, entry in values.values.items()}
    argv = [sys.executable, "-m", "deploytool.st_server", "--model", path]
    argv += ["--served-model-name", str(value["served_model_name"])]
    argv += ["--host", host, "--port", common.port_word(port)]
    argv += ["--dtype", str(value["dtype"]), "--device", str(value["device"])]
    for name in (
        "max_length",
        "max_batch_tokens",
        "max_queue",
        "max_texts",
        "threads",
        "matryoshka",
        "pooling",
        "backend",
    ):
        if value.get(name) is not None:
            argv += [f"--{name.replace('_', '-')}", str(value[name])]
    if card.normalize:
        argv.append("--normalize")
    if value["trust_remote_code"]:
        argv.append("--trust-remote-code")
    if value["revision"] is not None and not common.is_folder(path):
        argv += ["--revision", str(value["revision"])]
    return tuple(argv)
