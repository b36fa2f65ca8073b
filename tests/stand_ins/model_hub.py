"""A model hub: serves one repository from memory as huggingface_hub asks for it. Counts what it handed out."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """`files`: name -> content. `fetched`: names whose content was sent."""

    daemon_threads = True

    def __init__(self, repository: str, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repository, self.files, self.fetched = repository, files, list[str]()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0]
        about = f"/api/models/{self.server.repository}"
        if path.startswith(f"{about}/tree/"):
            tree = [
                {
                    "type": "file",
                    "path": name,
                    "size": len(content),
                    "oid": hashlib.sha256(content).hexdigest()[:40],
                }
                for name, content in self.server.files.items()
            ]
            self.send(json.dumps(tree).encode(), body=body, content_type="application/json")
            return
        if path.startswith(about):
            document = {"id": self.server.repository, "sha": COMMIT, "siblings": [
                {"rfilename": name} for name in self.server.files
            ]}  # fmt: skip
            self.send(json.dumps(document).encode(), body=body, content_type="application/json")
            return
        name = path.partition(f"/{self.server.repository}/resolve/{COMMIT}/")[2]
        content = self.server.files.get(name)
        if content is None:
            self.send(b"", body=False, status=404)
            return
        if body:
            self.server.fetched.append(name)
        self.send(content, body=body)

    def send(
        self, content: bytes, *, body: bool, status: int = 200, content_type: str = "application/octet-stream"
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", content_type)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on the test's stderr."""


@contextmanager
def serving(repository: str, files: dict[str, bytes]) -> Iterator[Hub]:
    hub = Hub(repository, files)
    thread = threading.Thread(target=hub.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()
