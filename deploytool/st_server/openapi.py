"""/openapi.json: what the server takes and answers. Checked against the running server by its tests."""

from __future__ import annotations

from typing import Any

from deploytool.st_server import schema

Json = dict[str, Any]

WORDS = {
    400: "The request is wrong; the message names the field.",
    401: "The API key is missing or wrong.",
    404: "Another model is served here.",
    408: "The body did not come in time.",
    413: "The body is too large.",
    415: "The body is not plain JSON.",
    429: "The queue is full; Retry-After says when to come back.",
    500: "The model failed over this request.",
    503: "The model is not loaded, or the server is stopping.",
}


def document(*, max_texts: int, with_key: bool) -> Json:
    """The description of this server as it was started."""
    paths: Json = {
        "/v1/embeddings": {"post": _embeddings()},
        "/v1/rerank": {"post": _rerank()},
        "/v1/models": {"get": _get("The model served.", "ModelList", (401, 503))},
        "/v1/models/{name}": {
            "get": {
                **_get("One model.", "Model", (401, 404, 503)),
                "parameters": [
                    {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
                ],
            }
        },
        "/health": {"get": _get("Alive.", "Object", ())},
        "/ready": {"get": {**_get("Ready for requests.", "Object", ())}},
        "/metrics": {"get": _plain("Prometheus metrics.")},
        "/openapi.json": {"get": _get("This document.", "Object", ())},
    }
    paths["/ready"]["get"]["responses"]["503"] = _answer("Not ready.", "Object")
    components: Json = {"schemas": _schemas(max_texts)}
    described: Json = {
        "openapi": "3.1.0",
        "info": {"title": "Embeddings", "version": "1", "description": "OpenAI's embeddings API."},
        "paths": paths,
        "components": components,
    }
    if with_key:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path in ("/v1/embeddings", "/v1/rerank", "/v1/models", "/v1/models/{name}"):
            for operation in paths[path].values():
                operation["security"] = [{"key": []}]
    return described


def _embeddings() -> Json:
    return {
        "summary": "Vectors of texts or token ids.",
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _ref("EmbeddingRequest")}},
        },
        "responses": {
            "200": _answer("The vectors, in the order of the input.", "Embeddings"),
            **_errors(WORDS),
        },
    }


def _rerank() -> Json:
    return {
        "summary": "Scores of documents for a query, the best first.",
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _ref("RerankRequest")}},
        },
        "responses": {"200": _answer("The scores.", "Scores"), **_errors(WORDS)},
    }


def _get(summary: str, name: str, errors: tuple[int, ...]) -> Json:
    return {"summary": summary, "responses": {"200": _answer(summary, name), **_errors(errors)}}


def _plain(summary: str) -> Json:
    content = {"text/plain": {"schema": {"type": "string"}}}
    return {"summary": summary, "responses": {"200": {"description": summary, "content": content}}}


def _answer(description: str, name: str) -> Json:
    return {"description": description, "content": {"application/json": {"schema": _ref(name)}}}


def _errors(statuses: Any) -> Json:
    return {str(status): _answer(WORDS[status], "Error") for status in statuses}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _schemas(max_texts: int) -> Json:
    text: Json = {"type": "string", "minLength": 1}
    ids: Json = {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0}}
    several: Json = {"type": "array", "minItems": 1, "maxItems": max_texts}
    vector = {"anyOf": [{"type": "array", "items": {"type": "number"}}, {"type": "string"}]}
    entry = _object({"object": {"const": "embedding"}, "index": {"type": "integer"}, "embedding": vector})
    count = {"type": "integer", "minimum": 0}
    usage = _object({"prompt_tokens": count, "total_tokens": count})
    score: Json = _object({"index": count, "relevance_score": {"type": "number"}})
    score["properties"]["document"] = _object({"text": {"type": "string"}})
    return {
        "EmbeddingRequest": {
            "type": "object",
            "required": ["input", "model"],
            "additionalProperties": False,
            "properties": {
                "input": {"anyOf": [text, {**several, "items": text}, ids, {**several, "items": ids}]},
                "model": {"type": "string"},
                "encoding_format": {"enum": ["float", "base64", None]},
                "dimensions": {"type": ["integer", "null"], "minimum": 1},
                "user": {"type": ["string", "null"]},
                "truncate": {"type": ["boolean", "null"], "description": "cut texts that are too long"},
                "input_type": {"enum": [*schema.INPUT_TYPES, None], "description": "applies its prompt"},
                "prompt_name": {"type": ["string", "null"], "description": "one of the model's prompts"},
                "normalize": {"type": ["boolean", "null"], "description": "bring vectors to length 1"},
            },
        },
        "Embeddings": _object(
            {
                "object": {"const": "list"},
                "data": {"type": "array", "items": entry},
                "model": {"type": "string"},
                "usage": usage,
            }
        ),
        "RerankRequest": {
            "type": "object",
            "required": ["model", "query", "documents"],
            "additionalProperties": False,
            "properties": {
                "model": {"type": "string"},
                "query": text,
                "documents": {
                    **several,
                    "items": {"anyOf": [text, {**_object({"text": text}), "additionalProperties": False}]},
                },
                "top_n": {"type": ["integer", "null"], "minimum": 1},
                "return_documents": {"type": ["boolean", "null"]},
                "truncate": {"type": ["boolean", "null"], "description": "cut pairs that are too long"},
            },
        },
        "Scores": _object(
            {
                "object": {"const": "list"},
                "model": {"type": "string"},
                "results": {"type": "array", "items": score},
                "usage": usage,
            }
        ),
        "Model": {"type": "object", "required": ["id", "object", "created", "owned_by"]},
        "ModelList": _object(
            {"object": {"const": "list"}, "data": {"type": "array", "items": _ref("Model")}}
        ),
        "Object": {"type": "object"},
        "Error": _object(
            {
                "error": _object(
                    {
                        "message": {"type": "string"},
                        "type": {"type": "string"},
                        "param": {"type": ["string", "null"]},
                        "code": {"type": ["string", "null"]},
                    }
                )
            }
        ),
    }


def _object(properties: Json) -> Json:
    return {"type": "object", "required": list(properties), "properties": properties}
