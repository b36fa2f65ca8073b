"""One served system's vectors of a task: proven first, embedded, of length 1, cut to the size asked for."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field

from deploytool.endpoint import Client
from deploytool.errors import BadInput, Unhealthy
from deploytool.evaluation import proving
from deploytool.evaluation.embedding import Embedder
from deploytool.evaluation.options import EvalOptions, Progress
from deploytool.evaluation.pipeline import Task, Vectors
from deploytool.evaluation.prompting import Prompting, Role, doubts, prompting_for
from deploytool.evaluation.reading import Reading, reading_of, shortened
from deploytool.evaluation.record import Cost
from deploytool.evaluation.retrying import Retries
from deploytool.evaluation.spending import Budget
from deploytool.evaluation.systems import Served
from deploytool.retrieval.cache import EmbeddingCache
from deploytool.retrieval.vectors import cut, normalised


@dataclass
class Measured:
    """A system's vectors and what is to be said of them. `full`: as wide as the server gave them."""

    vectors: Vectors
    full: Vectors
    dims_by: str | None
    prompting: Prompting
    truncated: int | None
    truncated_how: str
    refused: int
    cost: Cost
    findings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Surroundings:
    """What every system of an evaluation is measured with."""

    task: Task
    cache: EmbeddingCache | None
    progress: Progress
    stack: ExitStack

    def client(self, system: Served, timeout_s: float) -> Client:
        """An open connection until the evaluation ends."""
        for line in system.resolved.notes:
            self.progress.note(f"note: {line}")
        return self.stack.enter_context(system.resolved.client(timeout_s))


def measure_vectors(system: Served, options: EvalOptions, around: Surroundings, *, own: bool) -> Measured:
    """Raises Unhealthy (EndpointError), OverBudget, BadInput for a size that the vectors have not.

    `own`: TARGET itself, which the prompts and sizes on the command line are for.
    """
    client = around.client(system, options.timeout_s)
    prompting = prompting_for(system, options, overridable=own)
    findings = doubts(system, prompting, options) if own else []
    findings += proving.proven(system, client, options.profiles_dir)
    reading = reading_of(system, client)
    less = shortened(system, reading)
    findings += [less] if less else []
    dims = options.dims if own else ()
    embedder = _embedder(system, client, prompting, reading, options, around, asked_of_server(system, dims))
    _tell_price(embedder, around)
    findings += proving.recheck(embedder, around.task.queries, "query")
    findings += proving.recheck(embedder, around.task.documents, "document")
    ignored = proving.prompt_ignored(embedder, around.task.queries)
    findings += [ignored] if ignored else []
    return _embedded(embedder, around.task, dims, findings)


def _embedder(
    system: Served,
    client: Client,
    prompting: Prompting,
    reading: Reading,
    options: EvalOptions,
    around: Surroundings,
    dimensions: int | None,
) -> Embedder:
    return Embedder(
        system,
        client,
        prompting,
        reading,
        around.cache,
        Budget.of(system.api, system.target, options.max_usd),
        around.progress,
        batch=options.batch,
        concurrency=options.concurrency,
        dimensions=dimensions,
        retries=Retries(watch=around.progress.note),
    )


def _embedded(embedder: Embedder, task: Task, dims: tuple[int, ...], findings: list[str]) -> Measured:
    """Everything embedded, normalised, cut to the first of `dims`."""
    documents = embedder.embed(task.documents, "document")
    queries = embedder.embed(task.queries, "query")
    width, other = documents.matrix.shape[1], queries.matrix.shape[1]
    if width != other:
        raise Unhealthy(
            f"documents have {width} dimensions, queries {other}: the server changed in between",
            hint="measure again with --no-cache",
        )
    refused = queries.refused + documents.refused
    if refused:
        findings = [
            *findings,
            f"the server refused {refused} texts whatever their length: they have no vector",
        ]
    vectors = full = Vectors(normalised(queries.matrix), normalised(documents.matrix))
    here = bool(dims) and dims[0] != width
    if here:
        check_sizes(dims, width)
        vectors = Vectors(cut(vectors.queries, dims[0]), cut(vectors.documents, dims[0]))
    truncated, how = _truncated([*queries.cut, *documents.cut], embedder.reading)
    embedder.cost.usd = embedder.budget.usd
    return Measured(
        vectors=vectors,
        full=full,
        dims_by=_who_cut(embedder, here),
        prompting=embedder.prompting,
        truncated=truncated,
        truncated_how=how,
        refused=refused,
        cost=embedder.cost,
        findings=[*findings, *size_doubts(embedder.system, dims)],
    )


def asked_of_server(system: Served, dims: tuple[int, ...]) -> int | None:
    """The size to ask a hosted API for: the largest wanted, where it is not the usual one. Else None.

    Other servers are asked for their full width, so that one embedding serves every size.
    """
    if system.api is None or not dims:
        return None
    largest = max(dims)
    usual = system.card.dimensions if system.card else None
    sizes = system.card.matryoshka if system.card else None
    if largest == usual:
        return None
    if sizes is None or not sizes.allows(largest):
        if usual is not None and largest < usual:
            return None
        raise BadInput(f"{system.target} has no vectors of {largest} dimensions", hint=f"its own are {usual}")
    return largest


def check_sizes(dims: tuple[int, ...], width: int) -> None:
    """BadInput for a size above the width."""
    if max(dims) > width:
        raise BadInput(
            f"the vectors have {width} dimensions: they cannot be cut to {max(dims)}",
            hint=f"give --dims of {width} and less",
        )


def size_doubts(system: Served, dims: tuple[int, ...]) -> list[str]:
    """A sentence where vectors are cut that were not trained for it."""
    card = system.card
    if card is None or not dims:
        return []
    odd = [
        size
        for size in dims
        if size != card.dimensions and not (card.matryoshka and card.matryoshka.allows(size))
    ]
    if not odd:
        return []
    shown = ", ".join(map(str, odd))
    return [f"{card.name} was not trained for vectors of {shown} dimensions: it loses more than others do"]


def _who_cut(embedder: Embedder, here: bool) -> str | None:
    words = []
    if embedder.dimensions is not None:
        words.append(f"server ({embedder.dimensions} asked for)")
    if here:
        words.append("client, renormalised")
    return ", then ".join(words) or None


def _truncated(cut: list[bool | None], reading: Reading) -> tuple[int | None, str]:
    """How many texts are not read whole; None where that cannot be told of all."""
    known = sum(found is True for found in cut)
    if any(found is None for found in cut):
        doubtful = sum(found is None for found in cut)
        return None, f"{reading.how}; not known of {doubtful} texts, {known} others are"
    return known, reading.how


def _tell_price(embedder: Embedder, around: Surroundings) -> None:
    """What a hosted API will cost, and OverBudget before anything is spent."""
    if embedder.system.api is None:
        return
    missing = []
    for role, texts in _roles(around.task):
        known = embedder.known(texts, role)
        missing += [text for text in set(embedder.prompted(texts, role)) if text not in known]
    if not missing:
        return
    estimate = embedder.budget.check(missing)
    price = "at a price that its card does not say" if estimate is None else f"about ${estimate:.4f}"
    cap = f", at most ${embedder.budget.max_usd:g} (--max-usd)" if embedder.budget.max_usd else ""
    around.progress.note(f"{embedder.system.target}: {len(missing)} texts to embed, {price}{cap}")


def _roles(task: Task) -> tuple[tuple[Role, list[str]], tuple[Role, list[str]]]:
    return ("query", task.queries), ("document", task.documents)
