"""Request ids, and a line of JSON per request on stderr where asked for. Never a text of a user."""

from __future__ import annotations

import json
import os
import random
import re
import time

from deploytool.st_server.stages import say

HEADER = "x-request-id"
_ids = random.Random(os.urandom(32))  # noqa: S311 - names, not secrets; os.urandom takes 40 us each time
GIVEN = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


def request_id(given: str | None) -> str:
    """The client's own id where it is a plain word; else a new one."""
    return given if given is not None and GIVEN.fullmatch(given) else f"{_ids.getrandbits(128):032x}"


def write(
    identity: str, path: str, status: int, seconds: float, *, error: str | None, texts: int, tokens: int
) -> None:
    """`path` is one of the server's own, so that nothing a client made up is kept."""
    say(
        json.dumps(
            {
                "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "request_id": identity,
                "path": path,
                "status": status,
                "ms": round(seconds * 1000, 2),
                "texts": texts,
                "tokens": tokens,
                "error": error,
            }
        )
    )
