"""The HTTP of the server: OpenAI's embeddings API, health, readiness and metrics. The only Starlette here."""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from deploytool.st_server import auth, metrics, openapi, request_log
from deploytool.st_server.door import Door
from deploytool.st_server.errors import RequestError, bad_request
from deploytool.st_server.preparing import EMBED, RERANK
from deploytool.st_server.service import ClientGone, Service

Handler = Callable[[Request], Awaitable[Response]]

log = logging.getLogger("deploytool.st_server")
CLIENT_GONE = 499  # not sent: nobody is there; nginx's number in the metrics


def build(service: Service) -> ASGIApp:
    """The application; `/v1/*` needs the API key where there is one."""
    api = Api(service)
    routes = [
        Route(EMBED, api.guard(api.compute), methods=["POST"]),
        Route(RERANK, api.guard(api.compute), methods=["POST"]),
        Route("/v1/models", api.guard(api.models), methods=["GET"]),
        Route("/v1/models/{name:path}", api.guard(api.model), methods=["GET"]),
        Route("/health", api.health, methods=["GET"]),
        Route("/ready", api.ready, methods=["GET"]),
        Route("/metrics", api.metrics, methods=["GET"]),
        Route("/openapi.json", api.openapi, methods=["GET"]),
    ]
    return Door(Starlette(routes=routes, exception_handlers={HTTPException: api.http_error}), service)


class Api:
    """The handlers of one service."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def guard(self, handler: Handler) -> Handler:
        """Check the key, turn every exception into OpenAI's error shape, count the answer."""
        service = self.service

        async def guarded(request: Request) -> Response:
            began = time.perf_counter()
            identity = request_log.request_id(request.headers.get(request_log.HEADER))
            error_class: str | None = None
            try:
                auth.check(request.headers.get("authorization"), service.config.api_key)
                response = await handler(request)
            except RequestError as error:
                response = _refusal(error)
                error_class = error.code or f"http_{error.status}"
            except (ClientGone, ClientDisconnect):
                response = Response(status_code=CLIENT_GONE)
                error_class = "client_gone"
            except Exception as error:
                response = _refusal(RequestError(500, "internal error", code="internal_error"))
                error_class = "internal_error"
                # The message could hold a user's text: say where and what kind, not what.
                log.error(
                    "%s at\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__))
                )
            if service.state != "ready":
                response.headers["Connection"] = "close"
            response.headers[request_log.HEADER] = identity
            if error_class is not None:
                service.metrics.failed(error_class)
            path = request.scope["path"]
            path = "/v1/models" if path.startswith("/v1/models") else path
            seconds = time.perf_counter() - began
            service.metrics.answered(path, response.status_code, seconds)
            if service.config.log_json:
                texts, tokens = getattr(request.state, "counted", (0, 0))
                request_log.write(
                    identity, path, response.status_code, seconds,
                    error=error_class, texts=texts, tokens=tokens,
                )  # fmt: skip
            return response

        return guarded

    async def compute(self, request: Request) -> Response:
        """Vectors or scores: what passes through the queue. The door let it in."""
        service = self.service
        _check_content_type(request)
        try:
            async with asyncio.timeout(service.config.body_timeout_s):
                body = await _body(request, service.config.max_body_bytes)
        except TimeoutError:
            raise RequestError(
                408, "the body did not come in time", code="body_timeout", headers={"Connection": "close"}
            ) from None
        service.active += 1
        try:
            prepared = await service.prepare(request.scope["path"], body)
            request.state.counted = (len(prepared.ids), prepared.tokens)
            vectors = await service.compute(prepared, request.receive)
            return Response(await service.answer(prepared, vectors), media_type="application/json")
        finally:
            service.active -= 1

    async def models(self, request: Request) -> Response:
        del request
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        name = request.path_params["name"]
        config = self.service.config
        if name not in (config.served_name, config.model):
            raise RequestError(404, f"the model {name[:200]!r} is not served here", code="model_not_found")
        return JSONResponse(self._model())

    async def health(self, request: Request) -> Response:
        """Alive: the event loop answers. Says nothing about the model."""
        del request
        return JSONResponse({"status": "alive"})

    async def ready(self, request: Request) -> Response:
        del request
        service = self.service
        document = {"status": service.state, "stage": service.stage, "model": service.config.served_name}
        if service.state == "ready":
            return JSONResponse(document | {"warmed_mib": service.warmed_mib})
        return JSONResponse(document, status_code=503, headers={"Retry-After": "1"})

    async def metrics(self, request: Request) -> Response:
        del request
        return Response(self.service.metrics.render(), headers={"Content-Type": metrics.CONTENT_TYPE})

    async def openapi(self, request: Request) -> Response:
        del request
        config = self.service.config
        return JSONResponse(openapi.document(max_texts=config.max_texts, with_key=config.api_key is not None))

    async def http_error(self, request: Request, error: Exception) -> Response:
        """404 and 405 of the router, in OpenAI's shape."""
        assert isinstance(error, HTTPException)  # noqa: S101 - registered for it
        if error.status_code == 404:
            message, code = f"there is no {request.url.path[:200]}", "not_found"
        else:
            message, code = (
                f"{request.method} is not allowed on {request.url.path[:200]}",
                "method_not_allowed",
            )
        self.service.metrics.failed(code)
        self.service.metrics.answered("other", error.status_code, 0.0)
        return _refusal(
            RequestError(error.status_code, message, code=code, headers=dict(error.headers or {}))
        )

    def _model(self) -> dict[str, Any]:
        info, config = self.service.info(), self.service.config
        return {
            "id": config.served_name,
            "object": "model",
            "created": self.service.created,
            "owned_by": "deploytool",
            "root": config.model,
            "max_model_len": info.max_length,
            "kind": "reranker" if info.reranks else "embedding",
            "dimensions": None if info.reranks else info.dimensions,
            "matryoshka": str(config.matryoshka) if config.matryoshka else None,
            "normalized": info.normalized,
            "backend": info.backend,
            "dtype": info.dtype,
            "device": info.device,
        }


def _refusal(error: RequestError) -> Response:
    return JSONResponse(error.document(), status_code=error.status, headers=error.headers)


def _check_content_type(request: Request) -> None:
    given = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if given != "application/json" and not (given.startswith("application/") and given.endswith("+json")):
        raise RequestError(
            415, f"the body must be application/json, not {given[:80]!r}", code="unsupported_media_type"
        )
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise RequestError(415, "compressed bodies are not read", code="unsupported_encoding")


async def _body(request: Request, limit: int) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise _too_large(limit)
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        chunks.append(chunk)
    if not size:
        raise bad_request("the body is empty", code="invalid_json")
    return b"".join(chunks)


def _too_large(limit: int) -> RequestError:
    return RequestError(413, f"the body is larger than {limit >> 20} MiB", code="body_too_large")
