"""LaunchSpec: what a runtime starts. Pure data, the only thing that engines and runtimes share."""

from __future__ import annotations

import shlex
from typing import Literal

from pydantic import Field

from deploytool.schema import Document


class Readiness(Document):
    """How a server says that it is ready. A probe time-out must exceed what the engine's path takes."""

    path: str
    probe_timeout_s: float = Field(gt=0)
    start_timeout_s: float = Field(gt=0, description="default for `--wait`")


class SecretUse(Document):
    """How the engine takes its API key: never by argv.

    env: in the variable `name`. file: the runtime writes `template` (with `{key}` replaced) to a file that
    only the user can read and puts its path where argv says `{secret_file}`.
    """

    kind: Literal["env", "file"]
    name: str = ""
    template: str = "{key}"


SECRET_FILE = "{secret_file}"  # noqa: S105 - the placeholder, not a secret


class LaunchSpec(Document):
    """One server process. `model` is what clients send as "model"; `env` holds no secret."""

    engine: str
    engine_version: str | None = None
    argv: tuple[str, ...] = Field(min_length=1)
    env: dict[str, str] = Field(default_factory=dict)
    secret: SecretUse | None = Field(default=None, description="set where an API key is to be enforced")
    model: str
    model_path: str = Field(description="folder or hub id given to the engine")
    host: str
    port: int
    devices: tuple[int, ...] = Field(default=(), description="GPU indices; empty: CPU")
    readiness: Readiness
    image: str | None = None
    shm_mib: int | None = None

    @property
    def url(self) -> str:
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    def command(self) -> str:
        """The command as one pastes it into a shell, environment first, no secret in it."""
        words = [f"{name}={shlex.quote(value)}" for name, value in sorted(self.env.items())]
        return " ".join(words + [shlex.quote(word) for word in self.argv])
