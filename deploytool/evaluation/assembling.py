"""The record of a measurement, put together; the same vectors at smaller sizes; figures by language."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from deploytool.evaluation.measuring import Measured, check_sizes
from deploytool.evaluation.options import DEPTH, EvalOptions
from deploytool.evaluation.pipeline import Pipeline, Task, Vectors, with_intervals
from deploytool.evaluation.record import Cost, Cut, Difference, EvalRecord, Group
from deploytool.evaluation.systems import Lexical, Served, System
from deploytool.retrieval.intervals import paired
from deploytool.retrieval.search import rank
from deploytool.retrieval.vectors import Similarity, cut, similarity

COMPARED = ("recall@1", "recall@5", "recall@10", "mrr@10", "ndcg@10")


def differences(a: Mapping[str, Sequence[float]], b: Mapping[str, Sequence[float]]) -> dict[str, Difference]:
    """a minus b on the same queries, per compared metric, with what the queries can show."""
    found = {}
    for name in COMPARED:
        tested = paired(a[name], b[name])
        span = tested.interval
        found[name] = Difference(
            value=span.value, ci95=(span.low, span.high), p=tested.p_value, real=tested.real
        )
    return found


def record_of(
    system: System, options: EvalOptions, pipeline: Pipeline, measured: Measured | None, seconds: float
) -> EvalRecord:
    task = pipeline.task
    dataset = task.dataset
    last = pipeline.stages[-1]
    record = EvalRecord(
        id=uuid.uuid4().hex[:12],
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        target=system.target,
        model=system.model if isinstance(system, Served) else system.target,
        revision=system.revision or None if isinstance(system, Served) else None,
        computed_by=system.computed_by if isinstance(system, Served) else "deploytool",
        dataset=dataset.name,
        fingerprint=dataset.fingerprint(),
        split=options.split,
        n_queries=len(dataset.queries),
        n_docs=len(dataset.documents),
        unjudged=dataset.unjudged,
        metrics=last.metrics,
        by_language=by_language(task, pipeline.values),
        stages=pipeline.stages,
        index=pipeline.index,
        cost=total([stage.cost for stage in pipeline.stages]),
        seconds=seconds,
        per_query=pipeline.values,
        query_ids=task.query_ids,
    )
    if isinstance(system, Lexical) or measured is None:
        record.truncated, record.truncated_how = 0, "words are matched in whole texts"
        return record
    _add_vectors(record, system, task, measured)
    return record


def _add_vectors(record: EvalRecord, system: Served, task: Task, measured: Measured) -> None:
    found = _similarity(task, measured.vectors)
    record.margin = found.margin
    record.similarity = {
        "positives": found.positives,
        "all_pairs": found.all_pairs,
        "all_pairs_sd": found.all_pairs_sd,
        "z": found.z,
    }
    record.dims = int(measured.vectors.documents.shape[1])
    record.dims_by = measured.dims_by
    record.prompts = measured.prompting.shown()
    record.pooling = _pooling(system)
    record.truncated, record.truncated_how = measured.truncated, measured.truncated_how
    record.refused = measured.refused
    record.findings = measured.findings


def cuts(record: EvalRecord, task: Task, measured: Measured, dims: Sequence[int]) -> None:
    """Fill `by_dims`: every size against the first, on the same queries."""
    check_sizes(tuple(dims), int(measured.full.documents.shape[1]))
    for size in dims:
        vectors = Vectors(cut(measured.full.queries, size), cut(measured.full.documents, size))
        values = task.values(rank(vectors.queries, vectors.documents, task.document_ids, DEPTH))
        record.by_dims[str(size)] = Cut(
            metrics=with_intervals(values),
            margin=_similarity(task, vectors).margin,
            change={} if size == dims[0] else differences(values, record.per_query),
        )


def by_language(task: Task, values: Mapping[str, Sequence[float]]) -> dict[str, Group]:
    """The metrics of each language's queries, where the set says of all which it is."""
    languages = task.dataset.language
    if set(languages) != set(task.query_ids):
        return {}
    groups = {}
    for language in sorted(set(languages.values())):
        places = [place for place, name in enumerate(task.query_ids) if languages[name] == language]
        part = {name: [column[place] for place in places] for name, column in values.items()}
        groups[language] = Group(n_queries=len(places), metrics=with_intervals(part))
    return groups


def total(costs: Sequence[Cost]) -> Cost:
    """The sum over stages; what no stage knows stays unknown."""
    tokens = [cost.tokens for cost in costs if cost.tokens is not None]
    usd = [cost.usd for cost in costs if cost.usd is not None]
    return Cost(
        seconds=sum(cost.seconds for cost in costs),
        requests=sum(cost.requests for cost in costs),
        computed=sum(cost.computed for cost in costs),
        cached=sum(cost.cached for cost in costs),
        tokens=sum(tokens) if tokens else None,
        usd=sum(usd) if usd else None,
    )


def _similarity(task: Task, vectors: Vectors) -> Similarity:
    return similarity(
        vectors.queries, vectors.documents, task.query_ids, task.document_ids, task.dataset.relevant
    )


def _pooling(system: Served) -> str | None:
    """What the deployment was told, else what the card says."""
    return system.setting("pooling") or (system.card.pooling if system.card else None)
