"""A stand-in for hosted APIs on a local socket, written after their published references.

openai: POST /v1/embeddings {model, input, dimensions, encoding_format, user}; at most 2048 inputs, 8192
tokens each and 300,000 in all, none empty; errors nested in "error".
voyage: the same path with {model, input, input_type, truncation, output_dimension}; at most 1000 texts and
120,000 tokens; usage has total_tokens alone; errors in "detail".
Both: 401 without the key, 429 with Retry-After; POST /v1/rerank in the shape of Jina and Cohere, or SGLang's.

Vectors are those of `faulty_server`; the service's own prompt for an input_type goes before the text.
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from stand_ins.faulty_server import WIDTH, embed, tokens

KEY = "sk-stand-in-0123456789"
FIELDS = {
    "openai": {"model", "input", "dimensions", "encoding_format", "user"},
    "voyage": {"model", "input", "input_type", "truncation", "output_dimension", "encoding_format"},
}
MOST = {"openai": (2048, 300_000), "voyage": (1000, 120_000)}
LONGEST = 8192
SERVICE_PROMPTS = {"query": "find: ", "document": "keep: ", None: ""}


class Refusal(Exception):
    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers or {}


class HostedApi:
    """Serves in threads of this process.

    `busy`: so many requests are answered 429 first. `dies_after`: so many are answered before it hangs up.
    """

    def __init__(
        self,
        provider: str = "openai",
        *,
        busy: int = 0,
        retry_after: str | None = "0",
        dies_after: int | None = None,
        rerank_shape: str = "jina",
    ) -> None:
        self.provider = provider
        self.busy = busy
        self.retry_after = retry_after
        self.dies_after = dies_after
        self.rerank_shape = rerank_shape
        self.requests: list[dict[str, Any]] = []
        self.refused = 0
        self.lock = threading.Lock()

    def __enter__(self) -> Self:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                try:
                    status, document, headers = 200, owner.answer(self.path, self.headers, body), {}
                except Refusal as refusal:
                    status, document, headers = refusal.status, owner.error(refusal), refusal.headers
                except ConnectionAbortedError:
                    self.close_connection = True
                    return
                text = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(text)))
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text)

            def do_GET(self) -> None:
                self.send_response(404)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *details: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    @property
    def texts(self) -> list[str]:
        """Every text that was embedded, in the order of arrival."""
        return [text for request in self.requests for text in request.get("input", ())]

    def error(self, refusal: Refusal) -> Any:
        if self.provider == "voyage":
            return {"detail": refusal.message}
        return {
            "error": {
                "message": refusal.message,
                "type": "invalid_request_error",
                "param": None,
                "code": None,
            }
        }

    def answer(self, path: str, headers: Any, body: bytes) -> Any:
        if headers.get("authorization") != f"Bearer {KEY}":
            raise Refusal(401, f"Incorrect API key provided: {headers.get('authorization')}")
        with self.lock:
            if self.busy:
                self.busy -= 1
                self.refused += 1
                after = {} if self.retry_after is None else {"Retry-After": self.retry_after}
                raise Refusal(429, "Rate limit reached", after)
            if self.dies_after is not None and len(self.requests) >= self.dies_after:
                raise ConnectionAbortedError
            request = json.loads(body)
            self.requests.append(request)
        if path == "/v1/rerank":
            return self.reranked(request)
        if path != "/v1/embeddings":
            raise Refusal(404, f"no such path: {path}")
        return self.embedded(request)

    def embedded(self, request: dict[str, Any]) -> Any:
        unknown = set(request) - FIELDS[self.provider]
        if unknown:
            raise Refusal(400, f"Unrecognized request argument supplied: {', '.join(sorted(unknown))}")
        texts = request["input"]
        self.check(request, texts)
        sizes = [min(tokens(text), LONGEST) for text in texts]
        width = request.get("dimensions") or request.get("output_dimension") or WIDTH
        prompt = SERVICE_PROMPTS[request.get("input_type")]
        total = sum(sizes)
        return {
            "object": "list",
            "data": [
                {
                    "object": "embedding",
                    "index": place,
                    "embedding": embed((prompt + text)[: LONGEST * 4], width),
                }
                for place, text in enumerate(texts)
            ],
            "model": request["model"],
            "usage": {"total_tokens": total}
            if self.provider == "voyage"
            else {"prompt_tokens": total, "total_tokens": total},
        }

    def check(self, request: dict[str, Any], texts: list[str]) -> None:
        most, most_tokens = MOST[self.provider]
        if len(texts) > most or sum(map(tokens, texts)) > most_tokens:
            raise Refusal(400, f"at most {most} texts and {most_tokens} tokens in a request")
        if not all(texts):
            raise Refusal(400, "input cannot be an empty string")
        cut = self.provider == "voyage" and request.get("truncation", True)
        if not cut and max(map(tokens, texts)) > LONGEST:
            raise Refusal(400, f"This model's maximum context length is {LONGEST} tokens")

    def reranked(self, request: dict[str, Any]) -> Any:
        """Documents that share more words with the query score higher."""
        words = set(request["query"].lower().split())
        scores = [len(words & set(text.lower().split())) / (1 + len(words)) for text in request["documents"]]
        order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)
        if self.rerank_shape == "sglang":
            return [{"score": scores[place], "index": place, "document": None} for place in order]
        if self.rerank_shape == "short":
            order = order[:1]
        return {
            "model": request["model"],
            "results": [{"index": place, "relevance_score": scores[place]} for place in order],
            "usage": {"total_tokens": 1},
        }
