"""Reading the log of a container: follow it while it lives, or fetch what is there; keep it when it goes."""

from __future__ import annotations

import contextlib
import queue
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploytool.runtimes.log_files import FileLog

if TYPE_CHECKING:
    from docker import APIClient

LOG_NAME = "server.log"
KEPT_LINES = 50_000
HIDDEN = "[the API key]"
END_WAIT_S = 5.0


class ContainerLog:
    """See contract.LogReader. `read` follows by a thread; `rest` alone fetches what there is and ends."""

    def __init__(self, api: APIClient, container: str, last: int | None, secrets: tuple[str, ...]) -> None:
        self.api = api
        self.container = container
        self.last = last
        self.secrets = secrets
        self.chunks: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.partial = b""
        self.stream: Any = None
        self.thread: threading.Thread | None = None

    def read(self) -> list[str]:
        if self.thread is None:
            self.stream = _logs(self.api, self.container, self.last, follow=True)
            self.thread = threading.Thread(target=self._follow, name="container-log", daemon=True)
            self.thread.start()
        return self._lines()

    def rest(self) -> list[str]:
        if self.thread is None:
            lines = fetch(self.api, self.container, self.last, self.secrets)
        else:
            # The server is gone, so its stream ends by itself.
            self.thread.join(END_WAIT_S)
            lines = self._lines()
            if self.partial:
                lines.append(_text(self.partial, self.secrets))
                self.partial = b""
        self.close()
        return lines

    def close(self) -> None:
        stream, self.stream = self.stream, None
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.close()
        self.api.close()

    def _follow(self) -> None:
        # Closing the stream from outside, or an engine that stops, ends the loop in one of several ways.
        with contextlib.suppress(Exception):
            for chunk in self.stream or ():
                self.chunks.put(chunk)

    def _lines(self) -> list[str]:
        data = self.partial
        while not self.chunks.empty():
            data += self.chunks.get()
        *whole, self.partial = data.split(b"\n")
        return [_text(line, self.secrets) for line in whole]


def fetch(api: APIClient, container: str, last: int | None, secrets: tuple[str, ...]) -> list[str]:
    """The last `last` lines that there are (None: all)."""
    data: bytes = _logs(api, container, last, follow=False) or b""
    return [_text(line, secrets) for line in data.removesuffix(b"\n").split(b"\n")] if data else []


def keep(api: APIClient, container: str, folder: Path, secrets: tuple[str, ...]) -> None:
    """Write the end of a container's log into the deployment's folder, before the container is removed."""
    lines = fetch(api, container, KEPT_LINES, secrets)
    if lines and folder.is_dir():
        with (folder / LOG_NAME).open("w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)


def kept(folder: Path, last: int | None) -> FileLog:
    """The log of a container that is gone, as `keep` wrote it."""
    return FileLog(folder / LOG_NAME, last)


def _logs(api: APIClient, container: str, last: int | None, *, follow: bool) -> Any:
    from docker.errors import APIError

    count: Any = "all" if last is None else last
    try:
        if follow:
            return api.logs(container, stream=True, follow=True, tail=count)
        return api.logs(container, stream=False, follow=False, tail=count)
    except APIError:  # removed meanwhile: nothing more will come
        return None


def _text(line: bytes, secrets: tuple[str, ...]) -> str:
    """One line as a terminal would leave it, without what must not be shown."""
    text = line.decode("utf-8", errors="replace").rstrip("\r").rpartition("\r")[2]
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    return text
