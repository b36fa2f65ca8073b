"""What people write by hand: a web framework, and `encode` in its threadpool. FastAPI is Starlette here.

FastAPI runs a plain `def` endpoint with the same `run_in_threadpool`; its validation would only add to it.
"""

from __future__ import annotations

import sys

import uvicorn
from sentence_transformers import SentenceTransformer
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

folder, port, device, dtype = sys.argv[1:]
model = SentenceTransformer(folder, device=device, model_kwargs={"dtype": dtype})


async def embeddings(request: Request) -> JSONResponse:
    body = await request.json()
    texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
    rows = await run_in_threadpool(model.encode, texts, show_progress_bar=False)
    data = [
        {"object": "embedding", "index": index, "embedding": row.tolist()} for index, row in enumerate(rows)
    ]
    return JSONResponse({"object": "list", "data": data, "model": body["model"]})


async def ready(_: Request) -> JSONResponse:
    return JSONResponse({"status": "ready"})


if __name__ == "__main__":
    routes = [Route("/v1/embeddings", embeddings, methods=["POST"]), Route("/ready", ready)]
    uvicorn.run(Starlette(routes=routes), host="127.0.0.1", port=int(port), log_level="error")
