"""From model + hardware + overrides to a Plan. Pure: no file, no network, no GPU is touched here.

Every setting is resolved by precedence: flag > DEPLOYTOOL_* variable > deployment file > hardware profile >
model card > default; the plan keeps where each value came from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

from pydantic import Field

from deploytool.hardware import HardwareProfile, Scalar
from deploytool.launch import LaunchSpec
from deploytool.memory import MemoryEstimate
from deploytool.models import EngineSupport, ModelCard
from deploytool.schema import Document

Origin = Literal[
    "flag", "environment", "deployment file", "hardware profile", "model card", "default", "computed"
]


class Value(Document):
    """One resolved setting and where it came from; `why` explains a computed one."""

    name: str
    value: Scalar | None
    origin: Origin
    why: str = ""


class PlanRequest(Document):
    """What the user asked for. `flags` holds settings given on the command line (`--dtype`, `--set`, ...)."""

    engine: str = "auto"
    flags: dict[str, Scalar] = Field(default_factory=dict)
    environment: dict[str, Scalar] = Field(default_factory=dict)
    deployment_file: dict[str, Scalar] = Field(default_factory=dict)
    model_path: str | None = Field(default=None, description="folder of the files, where they were found")
    with_key: bool = Field(default=False, description="an API key will be enforced")
    free_mib: float | None = Field(default=None, description="free now on the smallest chosen card, by NVML")
    gpus: int | None = Field(default=None, description="cards of the profile present or asked for")


class Plan(Document):
    """What would be launched, whether it fits, and where every value came from."""

    model: str
    profile: str
    engine: str
    dtype: str
    tensor_parallel: int
    values: tuple[Value, ...]
    memory: MemoryEstimate
    launch: LaunchSpec
    warnings: tuple[str, ...] = ()
    suggestions: tuple[str, ...] = Field(default=(), description="what would fit, where this does not")

    def value(self, name: str) -> Scalar | None:
        """The resolved setting `name`; KeyError where the engine has no such setting."""
        for entry in self.values:
            if entry.name == name:
                return entry.value
        raise KeyError(name)

    def document(self) -> dict[str, Any]:
        """The plan as `--json` prints it."""
        return {
            "model": self.model,
            "profile": self.profile,
            "engine": self.engine,
            "dtype": self.dtype,
            "tensor_parallel": self.tensor_parallel,
            "argv": list(self.launch.argv),
            "env": dict(self.launch.env),
            "command": self.launch.command(),
            "memory": self.memory.model_dump(mode="json"),
            "values": [value.model_dump(mode="json") for value in self.values],
            "warnings": list(self.warnings),
            "suggestions": list(self.suggestions),
        }


class Cause(Document):
    """Why a start failed, read off the engine's log, and the one mend."""

    name: Literal[
        "out_of_memory",
        "port",
        "driver",
        "compute_capability",
        "gated_model",
        "missing_model",
        "offline",
        "remote_code",
        "missing_package",
        "bad_flag",
        "unknown",
    ]
    message: str
    hint: str


class Setting(Document):
    """A setting that an engine knows: what `--set NAME=VALUE` accepts."""

    name: str
    type: Literal["str", "int", "float", "bool"]
    help: str
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    default: Scalar | None = None


class Engine(Protocol):
    """What a serving engine is to this tool. One module in `engines/` each, listed in `engines.ENGINES`."""

    name: str
    extra: str
    settings: tuple[Setting, ...]

    def support(self, card: ModelCard) -> EngineSupport:
        """Whether this engine computes the model's vectors correctly, by its card or its architecture."""

    def plan(self, card: ModelCard, hardware: HardwareProfile, request: PlanRequest) -> Plan:
        """Settings, memory and launch; raises DoesNotFit, Incompatible or BadInput."""

    def installed(self) -> str | None:
        """Version of the engine where its program can be started, else None. Touches the file system."""

    def stage(self, line: str) -> str | None:
        """A short name for the stage that a log line announces, None where it says nothing new."""

    def diagnose(self, log_tail: str) -> Cause | None:
        """The classified cause of a failed start, None where the log says nothing known."""


def describe(values: Mapping[str, Value]) -> list[str]:
    """Lines `name = value (origin: why)` for people."""
    return [
        f"{value.name} = {value.value} ({value.origin}{': ' + value.why if value.why else ''})"
        for value in values.values()
    ]
