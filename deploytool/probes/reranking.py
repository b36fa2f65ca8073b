"""Checks of a reranker: /v1/rerank scores each document of a query, each by itself, the right ones higher."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from deploytool.endpoint import Response, WrongShape
from deploytool.probes.check import Bench, Outcome, Step, fail, ok
from deploytool.probes.contract import model_listed, reachable

QUERY = "How do I make a server listen on another port?"
# Two that answer the query, two that are of another subject; of several lengths, so that padding would show.
DOCUMENTS = (
    "The port on which the server listens is set with --port; the default is 8080.",
    "Bread rises because yeast turns sugar into carbon dioxide.",
    "To bind the server to a different port, change `port:` in its configuration and restart it.",
    "The museum is closed on Mondays.",
)
RIGHT = (0, 2)
TOLERANCE = 0.02  # of a score: half precision rounds by the company that a text has in a batch
SEPARATE = "scores of one request hang on each other: padding or the prompt's template reaches them"


def scores_of(answer: Response, count: int) -> list[float] | None:
    """One score a document, in their order; None where the answer is not that.

    Jina and Cohere answer {results: [{index, relevance_score}]}, SGLang a list of {score, index, document}.
    """
    document = answer.json()
    rows = document.get("results", document.get("data")) if isinstance(document, dict) else document
    found: dict[int, float] = {}
    for row in rows if isinstance(rows, list) else ():
        index, score = _entry(row)
        if isinstance(index, int) and isinstance(score, int | float):
            found[index] = float(score)
    return [found[place] for place in range(count)] if sorted(found) == list(range(count)) else None


def _entry(row: Any) -> tuple[Any, Any]:
    if not isinstance(row, dict):
        return None, None
    return row.get("index"), row.get("relevance_score", row.get("score"))


def _ask(bench: Bench, documents: Sequence[str]) -> tuple[Response, list[float] | None]:
    body = {"model": bench.client.model, "query": QUERY, "documents": list(documents)}
    answer = bench.client.request("POST", "/v1/rerank", json=body)
    scored = scores_of(answer, len(documents)) if 200 <= answer.status < 300 else None
    return answer, scored


def _scored(bench: Bench, documents: Sequence[str]) -> list[float]:
    """The scores of the query's documents; WrongShape where there is not one for each."""
    answer, scored = _ask(bench, documents)
    if scored is None:
        reason = answer.error_message() if answer.status >= 300 else "not one score for each document"
        raise WrongShape(f"HTTP {answer.status}: {reason}", status=answer.status)
    return scored


def rerank(bench: Bench) -> Outcome:
    answer, scored = _ask(bench, DOCUMENTS)
    if scored is not None:
        return ok(f"{len(scored)} scores for {len(DOCUMENTS)} documents: {_shown(scored)}")
    reason = answer.error_message() if answer.status >= 300 else "not one score for each document"
    hint = "is it a reranker, served as one? SGLang: without --is-embedding, with its --chat-template"
    return fail(f"HTTP {answer.status}: {reason or 'no readable message'}", hint)


def finite(bench: Bench) -> Outcome:
    scored = _scored(bench, DOCUMENTS)
    within = _is_cross_encoder(bench) or all(0 <= score <= 1 for score in scored)
    if within and all(map(math.isfinite, scored)):
        return ok(f"from {min(scored):.4f} to {max(scored):.4f}")
    return fail(
        _shown(scored), "a probability of yes against no is expected: NaN tells of a float16 overflow"
    )


def alone(bench: Bench) -> Outcome:
    together = _scored(bench, DOCUMENTS)
    apart = [_scored(bench, [document])[0] for document in DOCUMENTS]
    largest = max(abs(one - other) for one, other in zip(together, apart, strict=True))
    saw = f"alone and among {len(DOCUMENTS)} the scores differ by {largest:.4f} at most"
    return ok(saw) if largest <= _tolerance(together) else fail(saw, SEPARATE)


def order(bench: Bench) -> Outcome:
    turned = list(reversed(DOCUMENTS))
    forward, backward = _scored(bench, DOCUMENTS), _scored(bench, turned)
    largest = max(abs(one - other) for one, other in zip(forward, reversed(backward), strict=True))
    saw = f"with the documents turned round the scores differ by {largest:.4f} at most"
    return ok(saw) if largest <= _tolerance(forward) else fail(saw, "scores and documents are mixed up")


def relevance(bench: Bench) -> Outcome:
    scored = _scored(bench, DOCUMENTS)
    right = min(scored[place] for place in RIGHT)
    wrong = max(score for place, score in enumerate(scored) if place not in RIGHT)
    saw = f"documents that answer: {right:.4f} and above, others: {wrong:.4f} and below"
    if right > wrong:
        return ok(saw)
    return fail(
        saw, "the prompt is not the one that it was trained with (--chat-template), or an untrained model"
    )


def _is_cross_encoder(bench: Bench) -> bool:
    """Its head may give logits of any size; a decoder's yes against no is a probability."""
    known = bench.card.architecture if bench.card is not None else None
    return known is not None and known.class_name.endswith("ForSequenceClassification")


def _tolerance(scored: Sequence[float]) -> float:
    return TOLERANCE * max(1.0, *map(abs, scored))


def _shown(scored: Sequence[float]) -> str:
    return ", ".join(f"{score:.4f}" for score in scored)


RERANK = Step("rerank", rerank, "one score for each document")
FINITE = Step(
    "finite", finite, "finite; a probability, from 0 to 1, unless the model ships logits", ("rerank",)
)
ALONE = Step("alone", alone, f"the same score alone and among others, +- {TOLERANCE}", ("rerank", "finite"))
ORDER = Step("order", order, "score i is that of document i", ("rerank", "finite"))

PROOF: tuple[Step, ...] = (RERANK, FINITE, ALONE, ORDER)
SMOKE: tuple[Step, ...] = (
    Step("reachable", reachable, "an HTTP answer below 500"),
    Step("model_listed", model_listed, "the model's name in /v1/models", ("reachable",)),
    *PROOF,
    Step("relevance", relevance, "documents that answer the query score higher", ("rerank", "finite")),
)
