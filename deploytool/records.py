"""What is stored: deployments and load runs, in versioned schemas.

A record of a newer schema is refused with a clear message, never half-read.

History of deployments: 1 (first). History of runs: 1 (first; P99 was told from 100 samples on); 2: confidence
intervals and what is missing, adjusted percentiles, open loop, validity, client health, null calibration,
checked answers, the server's own metrics, repeats. Every new field has a default: a record of 1 is read as it
is, and says nothing of what was not measured then.
"""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, Field, field_validator

from deploytool.glance import DEPLOYMENT_SCHEMA, Listed
from deploytool.identity import ProcessIdentity
from deploytool.launch import LaunchSpec
from deploytool.schema import Record

RUN_SCHEMA = 2

DeploymentState = Literal["starting", "ready", "unhealthy", "stopped", "died"]


class Deployment(Record, Listed):
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
    profiles_dir: str | None = Field(
        default=None, description="--profiles-dir of its `up`: golden vectors are looked for there first"
    )
    from_file: str | None = Field(default=None, description="the deployment file that asked for it")
    slo: str | None = Field(default=None, description="what it is to hold, by its deployment file")
    group: str | None = Field(default=None, description="name of the endpoint that it is a replica of")
    proven: bool = Field(default=False, description="was ready once: `watch` keeps up what was, nothing else")
    restarts: int = Field(default=0, description="by `watch`, since it was last up for long or asked for")
    gave_up: str | None = Field(default=None, description="why `watch` restarts it no more")

    @field_validator("launch", mode="before")
    @classmethod
    def _launch_as_known(cls, stored: Any) -> Any:
        return known_fields(LaunchSpec, stored)

    @property
    def no_card(self) -> str:
        """Why there are no figures of a card, where its launch takes none."""
        return (
            "a router uses no card"
            if self.is_endpoint
            else f"the server runs on the CPU (profile {self.profile})"
        )

    @property
    def dtype(self) -> str | None:
        """What the server computes in, by its plan."""
        found = self.plan.get("dtype")
        return found if isinstance(found, str) else None

    @property
    def max_length(self) -> int | None:
        """Tokens that the server was told to read of a text, by its plan; None where it says nothing."""
        values = self.plan.get("values") or ()
        found = next((entry.get("value") for entry in values if entry.get("name") == "max_length"), None)
        return found if isinstance(found, int) else None


def known_fields(kind: type[BaseModel], stored: Any) -> Any:
    """A stored document without the fields that `kind` does not have, at any depth.

    Documents refuse unknown fields, so that a user's typing slip is seen; a record that another version wrote
    must stay readable, or nothing could be taken down after an upgrade.
    """
    if not isinstance(stored, dict):
        return stored
    fields = kind.model_fields.items()
    return {name: _known(field.annotation, stored[name]) for name, field in fields if name in stored}


def _known(annotation: Any, stored: Any) -> Any:
    """The same for a value of any annotation: a document, an optional one, or several in a dict or a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return known_fields(annotation, stored)
    kinds = get_args(annotation)
    if get_origin(annotation) is dict and isinstance(stored, dict):
        return {key: _known(kinds[1], value) for key, value in stored.items()}
    if get_origin(annotation) in (list, tuple) and isinstance(stored, list | tuple):
        return [_known(kinds[0], value) for value in stored]
    if get_origin(annotation) in (Union, UnionType):
        document = next((one for one in kinds if one is not NoneType), None)
        return stored if stored is None else _known(document, stored)
    return stored


class Latency(Record):
    """Milliseconds, over successful requests only, from raw samples. None: no or too few samples."""

    p50: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None
    p999: float | None = None
    max: float | None = None
    mean: float | None = None


class Validity(Record):
    """Whether a cell's figures can be believed, and why not: each reason is one sentence."""

    verdict: Literal["valid", "suspect", "void"]
    reasons: list[str] = Field(default_factory=list)


class ClientProcess(Record):
    """How one load process did in the window. Its loop's lag is what it may have added to a latency.

    Where the kernel told when answers arrived, it added nothing after them; an open loop still sends late by it.
    """

    cpu_percent: float | None = Field(default=None, description="of one core")
    lag_p50_ms: float | None = None
    lag_p99_ms: float | None = None
    lag_max_ms: float | None = None
    arrivals_told: bool = Field(default=False, description="the kernel told when each answer arrived")
    host: str | None = Field(default=None, description="a worker's name; None: this machine")
    lost: str | None = Field(default=None, description="why a worker did not end in order")
    clock_offset_ms: float | None = Field(default=None, description="the master's clock less this one")
    clock_uncertain_ms: float | None = Field(default=None, description="half of the quickest round trip")
    clock_moved_ms: float | None = Field(
        default=None, description="how far the offset moved while it was measured, beyond its uncertainty"
    )


class NullCalibration(Record):
    """The same clients and requests at a server that only sends bytes, right before the cell."""

    ceiling_qps: float
    added_ms: float | None = Field(default=None, description="P50 of one client alone")
    clients: int
    response_bytes: int
    cpu_percent: float | None = Field(default=None, description="of one core, the busiest load process")


class AnswerCheck(Record):
    """A share of the window's answers, looked into after it. None: it could not be told."""

    answers: int
    vectors: int = 0
    dimensions: int | None = None
    wrong: int = Field(default=0, description="answers of another shape, not finite, or not as alone")
    cosine_min: float | None = Field(default=None, description="to the same text sent alone, one at a time")
    norm_min: float | None = None
    norm_max: float | None = None
    tokens_counted: int | None = Field(default=None, description="by the server, over the checked answers")
    tokens_intended: int | None = Field(default=None, description="by the model's tokenizer, of the same")
    other_encoding_cosine: float | None = Field(
        default=None, description="of a text as float to the same as base64"
    )
    other_encoding_bytes: int | None = Field(default=None, description="size of that one text's answer")
    other_encoding_reason: str | None = Field(default=None, description="why there is none")
    problems: list[str] = Field(default_factory=list)


class ServerSide(Record):
    """What the target's own Prometheus metrics said in the window."""

    scrapes: int = 0
    reason: str | None = Field(default=None, description="why there is nothing")
    queue_mean: float | None = None
    queue_max: float | None = None
    running_mean: float | None = None
    running_max: float | None = None
    tokens_per_s: float | None = None
    texts_per_s: float | None = None
    restarted: bool = Field(default=False, description="the server's process is another one than before")


class Cell(Record):
    """One point of the grid.

    Closed loop: `batch` texts a request, `concurrency` requests in flight. Open loop: `rate` requests are due
    a second, `concurrency` in flight at most.
    """

    batch: int
    concurrency: int
    mode: Literal["closed", "open"] = "closed"
    rate: float | None = Field(default=None, description="open loop: requests due a second, as asked for")
    arrivals: Literal["constant", "poisson"] | None = None
    state: Literal["done", "failed", "interrupted"] = "done"
    reason: str | None = None
    requests: int = Field(description="successful requests in the measured window")
    errors: dict[str, int] = Field(default_factory=dict, description="class -> count, in the window")
    dropped: int = Field(default=0, description="open loop: due, but no connection was free; in errors too")
    duration_s: float
    qps: float
    texts_per_s: float
    tokens_per_s: float | None = None
    latency_ms: Latency = Field(description="open loop: from when a request was due")
    latency_ci95_ms: dict[str, tuple[float, float]] = Field(
        default_factory=dict, description="order-statistic intervals, by percentile"
    )
    latency_missing: dict[str, str] = Field(default_factory=dict, description="percentile -> why it is null")
    adjusted_ms: dict[str, float | Literal["infinite"] | None] = Field(
        default_factory=dict, description="percentiles with every error and drop as infinite"
    )
    service_ms: Latency | None = Field(default=None, description="open loop: from when a request was sent")
    sent_rate: float | None = Field(default=None, description="open loop: requests sent a second")
    due_rate: float | None = Field(default=None, description="open loop: requests that were due a second")
    vram_peak_mib: float | None = None
    vram_reason: str | None = None
    rss_peak_mib: float | None = None
    gpu_utilisation_percent: float | None = None
    power_peak_w: float | None = None
    energy_j_per_1m_tokens: float | None = None
    response_bytes: int | None = Field(default=None, description="median size of a successful answer")
    client_cpu_percent: float | None = Field(
        default=None, description="of one core, the busiest load process"
    )
    client: list[ClientProcess] = Field(default_factory=list)
    null: NullCalibration | None = None
    answers: AnswerCheck | None = None
    server: ServerSide | None = None
    validity: Validity | None = None
    notes: list[str] = Field(default_factory=list)

    @property
    def name(self) -> str:
        """As in samples and phases: "b8 c4", in an open loop "b8 r50"."""
        return cell_name(self.batch, self.concurrency, self.rate)

    @property
    def stands(self) -> bool:
        """Whether it was measured to its end and is not void: a run that is resumed measures the others."""
        return self.state == "done" and (self.validity is None or self.validity.verdict != "void")


def cell_name(batch: int, concurrency: int, rate: float | None = None) -> str:
    return f"b{batch} c{concurrency}" if rate is None else f"b{batch} r{rate:g}"


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
    """Peak over one phase ("idle", "loaded", "load b8 c4"), over all sampled cards together.

    `vram_reason` says why there is no peak, or, beside a peak, in how many readings it was missing and why.
    `missing` says the same of every column, by its name in `samples.MEMORY`.
    """

    phase: str
    vram_peak_mib: float | None = None
    vram_process_peak_mib: float | None = None
    vram_reason: str | None = None
    rss_peak_mib: float | None = None
    utilisation_percent: float | None = Field(default=None, description="mean over readings and cards")
    power_peak_w: float | None = Field(default=None, description="all sampled cards together")
    missing: dict[str, str] = Field(default_factory=dict, description="column -> why it is not complete")
    gap_max_ms: float | None = Field(default=None, description="longest time without a reading; None: no gap")
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
    series: dict[str, Any] | None = Field(
        default=None, description="one of several whole runs: id, number, of, and in the last one spread"
    )
