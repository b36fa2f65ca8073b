"""What an evaluation found: figures with their intervals, and everything that they hang on.

History: schema 1 (first).
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from deploytool.schema import Record

EVAL_SCHEMA = 1


class Metric(Record):
    """A mean over queries and its 95 % bootstrap interval."""

    value: float
    ci95: tuple[float, float]


class Group(Record):
    """The same metrics over some of the queries."""

    n_queries: int
    metrics: dict[str, Metric]


class Difference(Record):
    """`value`: this one minus the other, mean over queries. `real`: whether the set can show it (p < .05)."""

    value: float
    ci95: tuple[float, float]
    p: float
    real: bool


class Cost(Record):
    """What computing took, without what came from the cache. None: the server did not say."""

    seconds: float = 0.0
    requests: int = 0
    computed: int = Field(default=0, description="texts, or pairs of a reranker")
    cached: int = 0
    tokens: int | None = None
    usd: float | None = None


class Stage(Record):
    """One step of the way to the final ranking, with the figures of the ranking after it."""

    name: str
    system: str
    metrics: dict[str, Metric]
    cost: Cost = Cost()
    found_at_candidates: Metric | None = Field(
        default=None, description="recall of the candidates that a later stage chooses from: its ceiling"
    )


class Cut(Record):
    """The same vectors, cut to fewer dimensions and renormalised. `change`: this minus the first size."""

    metrics: dict[str, Metric]
    margin: float | None
    change: dict[str, Difference] = Field(default_factory=dict)


class IndexFigures(Record):
    """An approximate index beside exact search over the same vectors."""

    kind: str
    place: str
    version: str
    parameters: dict[str, Any]
    recall_at_10: float = Field(description="share of the exact first ten that the index finds")
    build_seconds: float
    query_ms_p50: float
    query_ms_p95: float
    bytes_on_disk: int | None = None


class Comparison(Record):
    """Another system on the same queries."""

    target: str
    metrics: dict[str, Metric]
    differences: dict[str, Difference]


class EvalRecord(Record):
    """One system on one data set. `truncated`: texts that the system does not read whole, None: unknown."""

    schema_version: int = EVAL_SCHEMA
    id: str
    created_at: str
    target: str
    model: str
    revision: str | None = None
    computed_by: str
    dataset: str
    fingerprint: str
    split: str
    n_queries: int
    n_docs: int
    unjudged: int = 0
    dims: int | None = Field(default=None, description="width of the vectors that were ranked")
    dims_by: str | None = Field(default=None, description="who cut them: server or client")
    metrics: dict[str, Metric]
    by_language: dict[str, Group] = Field(default_factory=dict)
    by_dims: dict[str, Cut] = Field(default_factory=dict)
    margin: float | None = Field(default=None, description="mean cosine of relevant pairs minus of all pairs")
    similarity: dict[str, float | None] = Field(default_factory=dict)
    prompts: dict[str, str | None] = Field(default_factory=dict)
    pooling: str | None = None
    truncated: int | None = None
    truncated_how: str = ""
    refused: int = 0
    stages: list[Stage] = Field(default_factory=list)
    index: IndexFigures | None = None
    cost: Cost = Cost()
    against: list[Comparison] = Field(default_factory=list)
    findings: list[str] = Field(default_factory=list, description="what is wrong or doubtful, in sentences")
    seconds: float
    per_query: dict[str, list[float]] = Field(default_factory=dict, repr=False)
    query_ids: list[str] = Field(default_factory=list, repr=False)

    def public(self) -> dict[str, Any]:
        """The document that `eval --json` prints: without the values of every query."""
        return self.model_dump(mode="json", exclude={"per_query", "query_ids"})
