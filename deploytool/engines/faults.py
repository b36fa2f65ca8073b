"""Causes that every engine's log can name: a table of patterns, tried in order, the first that matches wins.

Sources of the texts: torch, CUDA, uvicorn, huggingface_hub, transformers and Python's argparse and importlib.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from deploytool.planning import Cause, CauseName


class Fault(NamedTuple):
    """A pattern over the log; what its first group catches is added to the message."""

    pattern: str
    name: CauseName
    message: str
    hint: str


MEMORY_FAULTS = (
    Fault(
        r"CUDA out of memory|OutOfMemoryError|CUDA error: out of memory|cudaErrorMemoryAllocation",
        "out_of_memory",
        "the card's memory ran out",
        "lower --seq-len or --batch, free the card (`nvidia-smi` shows who holds it), or take a larger one",
    ),
    Fault(
        r"DefaultCPUAllocator: (?:can't|not enough)|\bMemoryError\b|Cannot allocate memory",
        "out_of_memory",
        "this machine's memory ran out",
        "lower --seq-len or --batch, or stop other programs",
    ),
)
PORT_FAULTS = (
    Fault(
        r"address already in use|Errno 98|EADDRINUSE|[Pp]ort (?:\d+ )?is (?:already )?in use",
        "port",
        "the port is in use",
        "--port auto, or another --port",
    ),
    Fault(
        r"[Cc]annot assign requested address|Errno 99",
        "port",
        "this machine has no such address to listen on",
        "--host 127.0.0.1",
    ),
    Fault(
        r"(?:bind|listen|socket|port).*[Pp]ermission denied|Errno 13\b.*(?:bind|address)",
        "port",
        "ports below 1024 need more rights",
        "--port 1024 or above",
    ),
)
DRIVER_FAULTS = (
    Fault(
        r"driver (?:on your system )?is too old|driver version is insufficient"
        r"|forward compatibility was attempted",
        "driver",
        "the NVIDIA driver is too old for this engine's CUDA",
        "update the driver, or take a build of the engine for an older CUDA",
    ),
    Fault(
        r"Found no NVIDIA driver|No CUDA GPUs are available|no CUDA-capable device"
        r"|libcuda\.so(?:\.1)?: cannot open"
        r"|NVML: Driver/library version mismatch|not compiled with CUDA enabled|CUDA unknown error",
        "driver",
        "no usable NVIDIA card or driver was found",
        "`nvidia-smi` must list the card; without one take --profile cpu",
    ),
    Fault(
        r"no kernel image is available|sm_\d+ is not compatible|only supports sm\d+ and above"
        r"|requires? compute capability|Bfloat16 is only supported on GPUs with compute capability",
        "compute_capability",
        "this card's compute capability is too low for the engine or the dtype (or too new for its build)",
        "--dtype float16 below capability 8.0, or --engine sentence-transformers below 7.5",
    ),
)
MODEL_FAULTS = (
    Fault(
        r"GatedRepoError|gated repo|Access to model \S+ is restricted|401 Client Error.*huggingface",
        "gated_model",
        "the model is gated: its licence must be accepted first",
        "accept it on the model's page, then put your token into HF_TOKEN",
    ),
    Fault(
        r"trust_remote_code=True|contains custom code which must be executed",
        "remote_code",
        "the model needs code of its repository",
        "read that code, then --set trust_remote_code=true --set revision=COMMIT",
    ),
    Fault(
        r"LocalEntryNotFoundError|OfflineModeIsEnabled|offline mode is enabled|Failed to resolve"
        r"|NameResolutionError|[Nn]etwork is unreachable|couldn't connect to|Max retries exceeded"
        r"|[Tt]emporary failure in name resolution",
        "offline",
        "the hub cannot be reached and the model is not in the cache",
        "connect to the network, or fetch the model elsewhere and give its folder as MODEL",
    ),
    Fault(
        r"RepositoryNotFoundError|RevisionNotFoundError|EntryNotFoundError|is not a valid model identifier"
        r"|does not appear to have a file named|404 Client Error|Repo id must be"
        r"|config\.json.*(?:not found|No such file)"
        r"|no safetensors|Cannot find any model weights|model path .* does not exist",
        "missing_model",
        "the model's files were not found",
        "check the name, the revision or the folder: it needs config.json and *.safetensors",
    ),
)
PACKAGE_FAULTS = (
    Fault(
        r"(?:ModuleNotFoundError|ImportError): (?:No module named )?(.+)",
        "missing_package",
        "a package is missing or does not load",
        "install the engine's extra again into this environment",
    ),
    Fault(
        r"(?:unrecognized arguments|invalid choice|ambiguous option|expected one argument"
        r"|the following arguments are required|error: argument)(.*)",
        "bad_flag",
        "the engine does not take a flag of this command",
        "compare its version with the one that this tool knows: `deploytool plan` shows the command",
    ),
)
# Packages before memory: an import that fails must not be read as its consequence.
COMMON = (*MEMORY_FAULTS, *PORT_FAULTS, *DRIVER_FAULTS, *MODEL_FAULTS, *PACKAGE_FAULTS)


def classify(log_tail: str, faults: Iterable[Fault]) -> Cause | None:
    """The first fault of the table that the log names; None where it names none of them."""
    for fault in faults:
        found = re.search(fault.pattern, log_tail)
        if found:
            detail = (found.group(1) or "").strip(" '\":") if found.re.groups else ""
            message = f"{fault.message}: {detail}" if detail else fault.message
            return Cause(name=fault.name, message=message, hint=fault.hint)
    return None
