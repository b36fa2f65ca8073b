"""The control interface of sglang-router 0.3.2: which workers it sends requests to, and whether they are well.

GET, POST and DELETE of /workers. Additions and removals are queued there: `add` and `remove` wait until they show.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, NamedTuple, Self

import httpx

from deploytool.errors import Unhealthy

POLL_S = 0.05
TIMEOUT_S = 10.0
SHOWS_WITHIN_S = 60.0


class Worker(NamedTuple):
    """One server behind the router, as the router sees it; `load`: its requests in flight."""

    id: str
    url: str
    healthy: bool
    load: int


class RouterApi:
    """Talks to one router; a context manager. Unhealthy where it does not answer, or not as it should."""

    def __init__(self, url: str, key: str | None) -> None:
        self.url = url
        self._key = key
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=TIMEOUT_S, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def workers(self) -> dict[str, Worker]:
        """The workers by their URL."""
        listed = self._ask("GET", "/workers").json()["workers"]
        found = [Worker(one["id"], one["url"], bool(one["is_healthy"]), int(one["load"])) for one in listed]
        return {worker.url: worker for worker in found}

    def offer(self, url: str, model: str) -> None:
        """Have it send requests there, too, as soon as a health check of that server was well."""
        if url in self.workers():
            return
        order: dict[str, Any] = {"url": url, "model_id": model}
        if self._key:
            order["api_key"] = self._key
        self._ask("POST", "/workers", order)

    def add(self, url: str, model: str) -> None:
        """The same; returns once it does."""
        self.offer(url, model)
        self._until(lambda found: url in found and found[url].healthy, f"take {url} in")

    def remove(self, url: str) -> bool:
        """Send nothing there any more; what was sent already is still answered. False where it was not there."""
        worker = self.workers().get(url)
        if worker is None:
            return False
        self._ask("DELETE", f"/workers/{worker.id}")
        self._until(lambda found: url not in found, f"let {url} go")
        return True

    def _until(self, shows: Any, what: str) -> None:
        deadline = time.monotonic() + SHOWS_WITHIN_S
        while not shows(self.workers()):
            if time.monotonic() >= deadline:
                raise Unhealthy(f"the router at {self.url} did not {what} within {SHOWS_WITHIN_S:g} s")
            time.sleep(POLL_S)

    def _ask(self, method: str, path: str, order: dict[str, Any] | None = None) -> httpx.Response:
        try:
            answer = self._http.request(method, path, json=order)
        except httpx.HTTPError as error:
            raise Unhealthy(f"the router at {self.url} does not answer: {error}") from error
        if not answer.is_success:
            hint = "is its API key the one that it was started with?" if answer.status_code == 401 else None
            raise Unhealthy(
                f"the router at {self.url} answered {answer.status_code} to {method} {path}", hint=hint
            )
        return answer
