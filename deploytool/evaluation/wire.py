"""The bodies of embedding and rerank requests, as their APIs want them, and the answers of rerankers.

OpenAI: POST /v1/embeddings {model, input, dimensions}; at most 2048 inputs and 300,000 tokens a request
(platform.openai.com, API reference). Voyage: the same path with {input_type, output_dimension, truncation}
(docs.voyageai.com, reference of the embeddings API). Rerank: POST /v1/rerank {model, query, documents};
Jina and Cohere answer {results: [{index, relevance_score}]}, SGLang a list of {score, index, document}.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from deploytool.endpoint import Client, Embeddings, HttpError, WrongShape
from deploytool.evaluation.prompting import Role
from deploytool.evaluation.systems import Served
from deploytool.wire.answers import Response, parse_embeddings
from deploytool.wire.errors import status_hint

LIMITS = {"openai": (2048, 300_000), "voyage": (1000, 120_000)}


class Busy(HttpError):
    """An answer that says to come back later; `wait_s` where it says when."""

    wait_s: float | None = None


def request_limits(system: Served, batch: int) -> tuple[int, int | None]:
    """Most texts and tokens of a request."""
    if system.api is None:
        return batch, None
    texts, tokens = LIMITS[system.api.provider]
    texts = min(batch, system.api.max_texts_per_request or texts)
    return texts, system.api.max_tokens_per_request or tokens


def embedding_body(
    system: Served,
    texts: Sequence[str],
    role: Role,
    *,
    input_type: bool,
    dimensions: int | None,
    truncate: bool = False,
) -> dict[str, Any]:
    """`truncate` asks the server of this tool, or text-embeddings-inference, to cut what is too long."""
    body: dict[str, Any] = {"model": system.resolved.model, "input": list(texts)}
    voyage = system.api is not None and system.api.provider == "voyage"
    if voyage:
        body["truncation"] = True
        if input_type:
            body["input_type"] = role
    if truncate and system.api is None:
        body["truncate"] = True
    if dimensions is not None:
        body["output_dimension" if voyage else "dimensions"] = dimensions
    return body


def embed(client: Client, body: dict[str, Any]) -> Embeddings:
    """One request. Busy, HttpError or another EndpointError; the key is in no message."""
    answer = checked(client, client.request("POST", "/v1/embeddings", json=body))
    return parse_embeddings(answer.json(), len(body["input"]), answer.latency_ms)


def rerank(client: Client, model: str, query: str, documents: Sequence[str]) -> list[float]:
    """One score a document, in the order of the documents."""
    body = {"model": model, "query": query, "documents": list(documents), "return_documents": False}
    answer = checked(client, client.request("POST", "/v1/rerank", json=body))
    document = answer.json()
    rows = document.get("results", document.get("data")) if isinstance(document, dict) else document
    scores: dict[int, float] = {}
    for row in rows if isinstance(rows, list) else ():
        index = row.get("index") if isinstance(row, dict) else None
        score = row.get("relevance_score", row.get("score")) if isinstance(row, dict) else None
        if isinstance(index, int) and isinstance(score, int | float) and math.isfinite(score):
            scores[index] = float(score)
    if sorted(scores) != list(range(len(documents))):
        raise WrongShape(
            f"/v1/rerank scored {len(scores)} of {len(documents)} documents (an index and a finite score are "
            "needed of each)",
            hint="is it a reranker? A server that cuts to top_n or leaves out documents cannot be measured",
            status=200,
        )
    return [scores[place] for place in range(len(documents))]


def checked(client: Client, answer: Response) -> Response:
    if 200 <= answer.status < 300:
        return answer
    reason = answer.error_message()
    reason = client.redact(reason)[:500] if reason is not None else None
    kind = Busy if answer.status in (429, 503, 529) else HttpError
    error = kind(
        f"answered {answer.status}" + (f": {reason}" if reason else " without a readable message"),
        status=answer.status,
        reason=reason,
        hint=status_hint(answer.status),
    )
    if isinstance(error, Busy):
        error.wait_s = retry_after(answer)
    raise error


def retry_after(answer: Response) -> float | None:
    """Seconds that Retry-After asks for, as a number or a date (RFC 9110, 10.2.3)."""
    import time
    from email.utils import parsedate_to_datetime

    text = next((value for name, value in answer.headers.items() if name.lower() == "retry-after"), None)
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - time.time()
        except ValueError:
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
