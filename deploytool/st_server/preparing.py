"""The work around the model that needs no queue: a request's bytes -> token ids, numbers -> an answer's bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deploytool.st_server import reranking, schema
from deploytool.st_server import vectors as encoding
from deploytool.st_server.backends.base import Backend
from deploytool.st_server.config import Config
from deploytool.st_server.errors import RequestError, bad_request
from deploytool.st_server.jobs import Vectors
from deploytool.st_server.prompts import Prompts
from deploytool.st_server.reranking import RerankRequest
from deploytool.st_server.schema import EmbeddingRequest

EMBED, RERANK = "/v1/embeddings", "/v1/rerank"


@dataclass(frozen=True)
class Prepared:
    """A checked request as token ids."""

    request: EmbeddingRequest | RerankRequest
    ids: Sequence[Sequence[int]]

    @property
    def tokens(self) -> int:
        return sum(map(len, self.ids))


def texts(body: bytes, backend: Backend, config: Config, prompts: Prompts) -> Prepared:
    """A request for vectors. Raises RequestError (400, 404)."""
    if backend.info.reranks:
        raise _other_kind("this model is a reranker: it scores pairs", RERANK)
    request = schema.parse(body, max_texts=config.max_texts)
    _check_model(request.model, config)
    _check_dimensions(request.dimensions, backend.info.dimensions, config)
    if request.normalize is False and backend.info.normalized:
        raise bad_request(
            "this model's vectors always have length 1", param="normalize", code="always_normalized"
        )
    prompt = prompts.choose(request.input_type, request.prompt_name)
    if request.texts is not None:
        ids = backend.tokenizer.encode(request.texts, truncate=request.truncate, prompt=prompt)
    else:
        ids = backend.tokenizer.check(request.ids or [], truncate=request.truncate)
    return Prepared(request, ids)


def pairs(body: bytes, backend: Backend, config: Config) -> Prepared:
    """A request for scores. Raises RequestError (400, 404)."""
    if not backend.info.reranks:
        raise _other_kind("this model is no reranker: it gives vectors", EMBED)
    request = reranking.parse(body, max_texts=config.max_texts)
    _check_model(request.model, config)
    ids = backend.tokenizer.pairs(request.query, request.documents, truncate=request.truncate)
    return Prepared(request, ids)


def written(prepared: Prepared, vectors: Vectors, config: Config) -> bytes:
    """The body of the answer."""
    request = prepared.request
    if isinstance(request, RerankRequest):
        scores = vectors[:, 0].tolist()
        return reranking.response(request, scores, model=config.served_name, tokens=prepared.tokens)
    rows = encoding.cut(vectors, request.dimensions)
    return encoding.response(
        encoding.unit(rows) if request.normalize else rows,
        model=config.served_name,
        prompt_tokens=prepared.tokens,
        as_base64=request.as_base64,
    )


def _other_kind(message: str, path: str) -> RequestError:
    return bad_request(f"{message}; ask {path}", code="wrong_kind_of_model")


def _check_model(name: str, config: Config) -> None:
    if name not in (config.served_name, config.model):
        raise RequestError(
            404,
            f"the model {name[:200]!r} is not served here; this is {config.served_name!r}",
            param="model",
            code="model_not_found",
        )


def _check_dimensions(wanted: int | None, full: int, config: Config) -> None:
    if wanted is None or wanted == full:
        return
    sizes = config.matryoshka
    if sizes is not None and wanted < full and sizes.allows(wanted):
        return
    known = f"{sizes}, and the full {full}" if sizes else f"{full} only: the model is not a Matryoshka one"
    raise bad_request(f"dimensions must be one of: {known}", param="dimensions", code="invalid_dimensions")
