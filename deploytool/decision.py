"""The outcome of a bake-off as data: one row a system, every figure with what is known of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from pydantic import Field

from deploytool.schema import Document
from deploytool.weighing import Ranking

DECISION_SCHEMA = 1
QUALITY = ("recall@1", "recall@5", "mrr@10")
RANKED_BY = "mrr@10"


class Column(NamedTuple):
    """A figure of the table. `better`: which way a reader would choose, None where there is no such way."""

    name: str
    title: str
    unit: str
    better: Literal["higher", "lower"] | None
    meaning: str


COLUMNS: tuple[Column, ...] = (
    Column("single_text_ms", "one text", "ms", "lower", "P50 of one text, one request in flight; of a "
           "word-matching baseline a whole search"),
    Column("batch16_speedup", "batch 16", "x", "higher", "texts/s in requests of 16 over requests of one, "
           "one in flight"),
    Column("texts_per_s", "texts/s", "1/s", "higher", "the most of any load point"),
    Column("slo_qps", "rate in SLO", "1/s", "higher", "highest request rate at which the SLO was shown to hold"),
    Column("slo_p99_ms", "P99 there", "ms", "lower", "P99 at that rate"),
    Column("slo_concurrency", "clients in SLO", "", "higher", "most requests in flight, of the load points "
           "with the SLO's batch, that keep it"),
    Column("memory_peak_mib", "memory peak", "MiB", "lower", "VRAM of the server's cards, else RSS of its "
           "processes, over all stages"),
    Column("model_mib", "model", "MiB", "lower", "weights on disk"),
    Column("dims", "dims", "", None, "numbers in a vector as it was ranked"),
    Column("bytes_per_vector", "vector", "B", "lower", "as float32"),
    Column("index_mib_per_1m", "index of 1M", "MiB", "lower", "exact float32 index of a million texts, without "
           "ids; of a word-matching baseline its own, reckoned up from the set's"),
    Column("usd_per_1m_tokens", "1M tokens", "USD", "lower", "list price of a hosted API; else the profile's "
           "price at the highest rate in the SLO"),
    Column("languages", "languages", "", None, "as far as the card says"),
    Column("licence", "licence", "", None, "of the model, or of the package"),
    Column("local", "local", "", None, "runs on this machine"),
)  # fmt: skip


class Against(Document):
    """Its difference to the best system: mean per query, interval, and the paired permutation test.

    `p_adjusted`: Holm's over all systems of this set and metric; `real`: p_adjusted < .05.
    """

    best: str
    value: float
    ci95: tuple[float, float]
    p: float
    p_adjusted: float
    real: bool


class Quality(Document):
    """One metric on one set; `against` is None for the best."""

    value: float
    ci95: tuple[float, float]
    against: Against | None = None


class Figure(Document):
    """A value, or None and the reason; with a value `reason` is a remark."""

    value: bool | int | float | str | None = None
    reason: str | None = None
    at_least: bool = False


class Row(Document):
    """One system. `quality`: data set -> metric; `by_dims`: data set -> size -> nDCG@10."""

    name: str
    kind: str
    what: str = Field(description="model, engine, backend, dtype")
    state: Literal["measured", "skipped", "failed"]
    reason: str | None = None
    quality: dict[str, dict[str, Quality]] = Field(default_factory=dict)
    figures: dict[str, Figure] = Field(default_factory=dict)
    by_dims: dict[str, dict[str, Quality]] = Field(default_factory=dict)
    findings: tuple[str, ...] = Field(default=(), description="what is wrong or doubtful, in sentences")
    records: dict[str, str] = Field(default_factory=dict, description="stage -> run or record")
    measured_at: str | None = None

    def number(self, name: str) -> float | None:
        """A figure that is a number; None else."""
        value = self.figures[name].value if name in self.figures else None
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

    def mean_quality(self, metric: str) -> float | None:
        """The mean over all data sets; None where one of them is missing."""
        found = [metrics[metric].value for metrics in self.quality.values() if metric in metrics]
        return sum(found) / len(found) if found and len(found) == len(self.quality) else None


class SetFacts(Document):
    """A data set's size: what its intervals hang on."""

    n_queries: int
    n_docs: int


class Decision(Document):
    """The whole table, and a ranking where weights were given."""

    schema_version: int = DECISION_SCHEMA
    made_at: str
    datasets: dict[str, SetFacts]
    slo: str | None
    load: str = Field(description="the load points in words")
    rows: tuple[Row, ...]
    ranking: Ranking | None = None
    unrankable: str | None = Field(default=None, description="why weights gave no ranking")
    notes: tuple[str, ...] = ()

    @property
    def measured(self) -> list[Row]:
        return [row for row in self.rows if row.state == "measured"]


def criteria(rows: list[Row]) -> Mapping[str, Mapping[str, float | None]]:
    """What `weighing` ranks by, by system and criterion."""
    return {
        row.name: {
            "quality": row.mean_quality(RANKED_BY),
            "latency": row.number("single_text_ms"),
            "memory": row.number("memory_peak_mib"),
            "cost": row.number("usd_per_1m_tokens"),
        }
        for row in rows
    }
