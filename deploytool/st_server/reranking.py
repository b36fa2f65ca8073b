"""/v1/rerank: request bytes -> RerankRequest, scores -> response bytes, in the shape of Jina and Cohere.

{"model", "query", "documents", "top_n", "return_documents"} and, as an extension, "truncate"; answered with
{"model", "results": [{"index", "relevance_score", "document"}], "usage"}, the best first
(jina.ai/reranker, "API"; docs.cohere.com, "Rerank API"). A document is a string or {"text": string}.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from deploytool.st_server.errors import bad_request
from deploytool.st_server.schema import flag, object_of, positive, text

FIELDS = ("model", "query", "documents", "top_n", "return_documents", "truncate")


@dataclass(frozen=True)
class RerankRequest:
    """A checked request. `top_n` None: all of them."""

    model: str
    query: str
    documents: list[str]
    top_n: int | None
    return_documents: bool
    truncate: bool


def parse(body: bytes, *, max_texts: int) -> RerankRequest:
    """Raises RequestError (400)."""
    document = object_of(body, FIELDS)
    return RerankRequest(
        model=text(document, "model"),
        query=_written(text(document, "query"), "query"),
        documents=_documents(document.get("documents"), max_texts),
        top_n=positive(document, "top_n"),
        return_documents=bool(flag(document, "return_documents")),
        truncate=bool(flag(document, "truncate")),
    )


def response(request: RerankRequest, scores: Sequence[float], *, model: str, tokens: int) -> bytes:
    """The body of the answer; documents of equal score stay in their order."""
    ranked = sorted(range(len(scores)), key=lambda index: -scores[index])[: request.top_n]
    results: list[dict[str, Any]] = [
        {"index": index, "relevance_score": float(scores[index])} for index in ranked
    ]
    if request.return_documents:
        for result in results:
            result["document"] = {"text": request.documents[result["index"]]}
    return orjson.dumps(
        {
            "object": "list",
            "model": model,
            "results": results,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
    )


def _documents(value: Any, max_texts: int) -> list[str]:
    if value is None:
        raise bad_request("documents is missing", param="documents", code="missing_field")
    if not isinstance(value, list):
        raise bad_request("documents must be a list", param="documents", code="invalid_type")
    if not value:
        raise bad_request("documents is an empty list", param="documents", code="empty_input")
    if len(value) > max_texts:
        raise bad_request(
            f"documents has {len(value)} texts; this server takes {max_texts} per request",
            param="documents",
            code="too_many_texts",
        )
    return [_document(entry, f"documents[{index}]") for index, entry in enumerate(value)]


def _document(entry: Any, place: str) -> str:
    if isinstance(entry, dict) and set(entry) == {"text"}:
        entry = entry["text"]
    if not isinstance(entry, str):
        raise bad_request(
            f'{place} must be a string or {{"text": string}}', param="documents", code="invalid_type"
        )
    return _written(entry, place)


def _written(value: str, place: str) -> str:
    if not value or value.isspace():
        raise bad_request(
            f"{place} is {'blank' if value else 'an empty string'}",
            param=place.partition("[")[0],
            code="empty_input",
        )
    return value
