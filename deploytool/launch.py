"""LaunchSpec: what a runtime starts. Pure data, the only thing that engines and runtimes share."""

from __future__ import annotations

import json
import shlex
from typing import Literal

from pydantic import Field

from deploytool.errors import BadInput
from deploytool.glance import Located
from deploytool.schema import Document


class Readiness(Document):
    """How a server says that it is ready. A probe time-out must exceed what the engine's path takes."""

    path: str
    probe_timeout_s: float = Field(gt=0)
    start_timeout_s: float = Field(gt=0, description="default for `--wait`")


class SecretUse(Document):
    """How the engine takes its API key: never by argv.

    env: in the variable `name`, or in the file that `file_flag` names. file: the runtime writes
    `content(key)` to a .yaml file that only the user can read, and puts its path where argv says
    `{secret_file}`.
    """

    kind: Literal["env", "file"]
    name: str = ""
    file_flag: str = Field(
        default="", description="flag that names a file with the key, where env is not private"
    )
    template: str = "{key}"
    quoting: Literal["none", "json"] = Field(default="none", description="how `{key}` is written in the file")

    def content(self, key: str) -> str:
        """The file's text or the variable's value; BadInput for a key that would not arrive as it is."""
        if not key or key != key.strip() or not (key.isascii() and key.isprintable()):
            raise BadInput(
                "the API key is not usable",
                hint="printable ASCII characters, no blank at either end: it travels in an HTTP header",
            )
        if self.kind == "file" and (key.startswith(("-", "#")) or repr(key)[1:-1] != key):
            raise BadInput(
                "the engine cannot take this API key: it starts with '-' or '#', or holds a backslash or quotes",
                hint="choose another: it would be read as a flag, or logged in a form that cannot be hidden",
            )
        return self.template.replace("{key}", json.dumps(key) if self.quoting == "json" else key)


SECRET_FILE = "{secret_file}"  # noqa: S105 - the placeholder, not a secret
FREE_PORT = "{port}"


class LaunchSpec(Document, Located):
    """One server process. `model` is what clients send as "model"; `env` holds no secret."""

    engine: str
    engine_version: str | None = None
    argv: tuple[str, ...] = Field(min_length=1)
    env: dict[str, str] = Field(default_factory=dict)
    secret: SecretUse | None = Field(default=None, description="set where an API key is to be enforced")
    model: str
    model_path: str = Field(description="folder or hub id given to the engine")
    host: str
    port: int = Field(description="0: chosen at the start, where argv says `{port}`")
    files: tuple[str, ...] = Field(
        default=(), description="files of this machine that argv names, beside the model's folder"
    )
    devices: tuple[int, ...] = Field(default=(), description="GPU indices; empty: CPU")
    readiness: Readiness
    image: str | None = Field(
        default=None, description="container image; only read where a container is made"
    )
    program: str | None = Field(default=None, description="argv[0] inside the image, where it is another one")
    read_only_root: bool = Field(default=False, description="the image was seen to run on a read-only root")
    shm_mib: int | None = Field(
        default=None, description="shared memory of a container; None: its engine's own"
    )
    memory_limit_mib: int | None = Field(default=None, description="of a container; None: unbounded")

    def with_port(self, port: int) -> LaunchSpec:
        """The same server on another port: in `port` and after `--port` in argv."""
        return self.model_copy(update={"argv": self._with_flag("--port", str(port)), "port": port})

    def at_host(self, host: str) -> LaunchSpec:
        """The same server on another address: in `host` and after `--host` in argv."""
        return self.model_copy(update={"argv": self._with_flag("--host", host), "host": host})

    def _with_flag(self, flag: str, value: str) -> tuple[str, ...]:
        argv = list(self.argv)
        for index, word in enumerate(argv[:-1]):
            if word == flag:
                argv[index + 1] = value
        return tuple(argv)

    def command(self) -> str:
        """The command as one pastes it into a shell, environment first, no secret in it."""
        return " ".join(word for group in self._groups() for word in group)

    def command_lines(self) -> str:
        """The same command with one flag a line, for reading and pasting."""
        return " \\\n  ".join(" ".join(group) for group in self._groups())

    def _groups(self) -> list[list[str]]:
        """Quoted words: environment and program first, then each flag with its values."""
        groups = [[f"{name}={shlex.quote(value)}" for name, value in sorted(self.env.items())]]
        for word in self.argv:
            if word.startswith("--"):
                groups.append([])
            groups[-1].append(shlex.quote(word))
        return groups
