"""The API key of a container: a file that only its user can read, mounted; never argv, variable or label."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deploytool.launch import LaunchSpec, SecretUse

SECRET_NAME = "secret.yaml"  # noqa: S105 - a file name


def write_secret(spec: LaunchSpec, folder: Path, key: str | None, user: str) -> Path:
    """Write the file that the container is given; returns its path, written or not."""
    path = folder / SECRET_NAME
    path.unlink(missing_ok=True)
    if key and spec.secret is not None:
        content = spec.secret.content(key)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(content)
            uid, gid = map(int, user.split(":"))
            if os.getuid() == 0:
                os.fchown(handle, uid, gid)
    return path


def read_secret(spec: LaunchSpec, folder: Path) -> tuple[str, ...]:
    """What must not be shown of a log: some engines print their key among their settings."""
    if spec.secret is None:
        return ()
    try:
        content = (folder / SECRET_NAME).read_text(encoding="utf-8")
    except OSError:
        return ()
    return _key_in(content, spec.secret)


def _key_in(content: str, use: SecretUse) -> tuple[str, ...]:
    before, _, after = use.template.partition("{key}")
    inner = content.removeprefix(before).removesuffix(after)
    if use.quoting == "json":
        with contextlib.suppress(ValueError):
            return (str(json.loads(inner)),)
    return (inner,) if inner else ()
