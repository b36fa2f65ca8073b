"""What is stored: deployments and load runs, in versioned schemas.

History: run schema 1 (first), deployment schema 1 (first). A record of a newer schema is refused with a clear
message, never half-read.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from deploytool.launch import LaunchSpec
from deploytool.schema import Record

RUN_SCHEMA = 1
DEPLOYMENT_SCHEMA = 1

DeploymentState = Literal["starting", "ready", "unhealthy", "stopped", "died"]


class ProcessIdentity(Record):
    """A process is identified by pid *and* start time (seconds since the epoch): pids are reused."""

    pid: int
    started_at: float


class Deployment(Record):
    """A server of ours and its durable record."""

    schema_version: int = DEPLOYMENT_SCHEMA
    id: str
    name: str
    engine: str
    runtime: str
    profile: str
    model: str
    state: DeploymentState
    reason: str | None = None
    created_at: str = Field(description="ISO 8601, UTC")
    ready_at: str | None = None
    ready_s: float | None = None
    launch: LaunchSpec
    plan: dict[str, Any] = Field(default_factory=dict)
    process: ProcessIdentity | None = Field(default=None, description="the server itself")
    supervisor: ProcessIdentity | None = Field(
        default=None, description="what waits for it and keeps its log"
    )
    container: str | None = None
    owner: ProcessIdentity | None = Field(default=None, description="the `up` at work on it, while it is")
    wanted: Literal["running", "stopped"] = "running"
    exit_status: int | None = Field(default=None, description="exit code; negative: the signal")
    log_path: str | None = None
    key_source: str | None = Field(default=None, description="'file PATH' or 'env NAME'; never the key")
    dimensions: int | None = None
    memory: dict[str, Any] = Field(default_factory=dict)
    card: dict[str, Any] = Field(default_factory=dict, description="the model card it was planned with")

    def public(self) -> dict[str, Any]:
        """The document that `up --json` ends with and `ps --json` lists."""
        document: dict[str, Any] = {
            "name": self.name,
            "url": self.launch.url,
            "engine": self.engine,
            "runtime": self.runtime,
            "profile": self.profile,
            "model": self.model,
        }
        if self.container is not None:
            document["container"] = self.container
        else:
            document["pid"] = self.process.pid if self.process else None
        return document | {
            "state": self.state,
            "reason": self.reason,
            "ready_s": self.ready_s,
            "memory": self.memory,
        }


class Latency(Record):
    """Milliseconds, over successful requests only, from raw samples. None: no or too few samples."""

    p50: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None
    p999: float | None = None
    max: float | None = None
    mean: float | None = None


class Cell(Record):
    """One point of the grid: `batch` texts a request, `concurrency` requests in flight, closed loop."""

    batch: int
    concurrency: int
    mode: Literal["closed", "open"] = "closed"
    state: Literal["done", "failed", "interrupted"] = "done"
    reason: str | None = None
    requests: int = Field(description="successful requests in the measured window")
    errors: dict[str, int] = Field(default_factory=dict, description="class -> count, in the window")
    duration_s: float
    qps: float
    texts_per_s: float
    tokens_per_s: float | None = None
    latency_ms: Latency
    vram_peak_mib: float | None = None
    vram_reason: str | None = None
    rss_peak_mib: float | None = None
    gpu_utilisation_percent: float | None = None
    power_peak_w: float | None = None
    response_bytes: int | None = Field(default=None, description="median size of a successful answer")
    client_cpu_percent: float | None = Field(default=None, description="of one core, the load generator")
    notes: list[str] = Field(default_factory=list)


class Target(Record):
    """What was measured. `deployment` is None for a bare URL."""

    url: str
    model: str
    deployment: str | None = None
    engine: str | None = None
    engine_version: str | None = None
    profile: str | None = None
    dtype: str | None = None
    model_revision: str | None = None


class PhaseMemory(Record):
    """Peak over one phase ("idle", "loaded", "load b8 c4"); vram None with `vram_reason`."""

    phase: str
    vram_peak_mib: float | None = None
    vram_process_peak_mib: float | None = None
    vram_reason: str | None = None
    rss_peak_mib: float | None = None
    samples: int = 0


class RunRecord(Record):
    """One load run. Raw samples lie beside it: `samples.parquet`, `memory.parquet`."""

    schema_version: int = RUN_SCHEMA
    id: str
    kind: Literal["load"] = "load"
    state: Literal["running", "finished", "interrupted", "failed"]
    reason: str | None = None
    started_at: str = Field(description="ISO 8601, UTC")
    finished_at: str | None = None
    target: Target
    request: dict[str, Any] = Field(description="grid, duration_s, warmup_s, corpus, encoding, seed")
    manifest: str | None = Field(default=None, description="hash of the work: same hash, same texts")
    environment: dict[str, Any] = Field(default_factory=dict)
    cells: list[Cell] = Field(default_factory=list)
    memory: list[PhaseMemory] = Field(default_factory=list)
    owner: ProcessIdentity | None = None
    folder: str | None = None
