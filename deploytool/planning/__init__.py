"""From model + hardware + overrides to a Plan. Pure: no file, no network, no GPU is touched here.

Settings are resolved in `settings`; `choices` holds what all engines decide alike (dtype, tensor parallelism,
which engine). Here are the documents that an engine takes and gives, and what an engine is.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

from pydantic import Field

from deploytool.hardware import HardwareProfile, Scalar
from deploytool.launch import LaunchSpec
from deploytool.memory import MemoryEstimate
from deploytool.memory.measured import Measured
from deploytool.models import EngineSupport, ModelCard
from deploytool.schema import Document
from deploytool.settings import Origin as Origin
from deploytool.settings import Setting as Setting
from deploytool.settings import Value as Value

AUTO = "auto"


class PlanRequest(Document):
    """What the user asked for. `flags` holds settings given on the command line (`--dtype`, `--set`, ...)."""

    engine: str = "auto"
    flags: dict[str, Scalar] = Field(default_factory=dict)
    environment: dict[str, Scalar] = Field(default_factory=dict)
    deployment_file: dict[str, Scalar] = Field(default_factory=dict)
    model_path: str | None = Field(default=None, description="folder of the files, where they were found")
    weights_bytes: int | None = Field(default=None, description="of the files, where they were found")
    parameters: int | None = Field(default=None, description="counted in the headers of the files")
    engine_version: str | None = Field(default=None, description="installed; None: not installed here")
    measured: tuple[Measured, ...] = Field(
        default=(), description="of this model, engine and version on this card"
    )
    with_key: bool = Field(default=False, description="an API key will be enforced")
    free_mib: float | None = Field(default=None, description="free now on the smallest chosen card, by NVML")
    free_from: str = Field(default="free now (NVML)", description="where `free_mib` was read")
    gpus: int | None = Field(default=None, description="cards of the profile present or asked for")
    cpus: int | None = Field(default=None, description="processor cores that a server may compute on")
    elsewhere: dict[str, str] = Field(
        default_factory=dict, description="settings of the other engines -> the engine that has it"
    )


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

    @property
    def cards(self) -> int:
        """Cards that the server takes: those that share a copy of the model, times the copies."""
        copies = next((entry.value for entry in self.values if entry.name == "data_parallel"), None)
        return self.tensor_parallel * (copies if isinstance(copies, int) else 1)

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
            "cards": self.cards,
            "argv": list(self.launch.argv),
            "env": dict(self.launch.env),
            "command": self.launch.command(),
            "memory": self.memory.model_dump(mode="json"),
            "values": [value.model_dump(mode="json") for value in self.values],
            "warnings": list(self.warnings),
            "suggestions": list(self.suggestions),
        }


CauseName = Literal[
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


class Cause(Document):
    """Why a start failed, read off the engine's log, and the one mend."""

    name: CauseName
    message: str
    hint: str


class EngineImage(Document):
    """The container image of an engine for some hardware, and what to know of it."""

    name: str
    version: str | None = None
    warnings: tuple[str, ...] = ()


class Engine(Protocol):
    """What a serving engine is to this tool. One module in `engines/` each, listed in `engines.ENGINES`."""

    name: str
    install: str  # what to do where it is not installed
    versions: tuple[str, ...]  # those whose flags, defaults and log lines this module knows
    settings: tuple[Setting, ...]
    hazards: tuple[str, ...]  # what ends or endangers a server of this engine: said by `status`

    def support(self, card: ModelCard) -> EngineSupport:
        """Whether this engine computes the model's vectors correctly, by its card or its architecture."""

    def refuses(self, hardware: HardwareProfile) -> str | None:
        """Why the engine cannot run on this hardware at all, None where it can."""

    def plan(self, card: ModelCard, hardware: HardwareProfile, request: PlanRequest) -> Plan:
        """Settings, memory and launch; raises Incompatible or BadInput.

        What does not fit comes back with that verdict, so that it can be shown; `plans.prepare` raises.
        """

    def image(self, hardware: HardwareProfile, driver: str | None) -> EngineImage:
        """Its container image for this hardware; `driver`: version of the NVIDIA driver, None: unknown.

        Incompatible where no image runs there.
        """

    def installed(self) -> str | None:
        """Version of the engine where its program can be started, else None. Touches the file system."""

    def stage(self, line: str) -> str | None:
        """A short name for the stage that a log line announces, None where it says nothing new."""

    def diagnose(self, log_tail: str) -> Cause | None:
        """The classified cause of a failed start, None where the log says nothing known."""
