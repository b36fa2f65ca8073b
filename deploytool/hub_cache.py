"""Where Hugging Face's libraries keep downloaded models: the layout of their cache, read without them.

`models--ORG--NAME/refs/REVISION` holds a commit, `models--ORG--NAME/snapshots/COMMIT/` its files. The folder
is named by HF_HUB_CACHE, else HF_HOME, else XDG_CACHE_HOME, as huggingface_hub documents it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

TRUE = {"1", "true", "yes", "on"}


def hub_cache(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder of the cache; it need not exist."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if environ.get(name):
            return Path(environ[name]).expanduser()
    return _hf_home(environ) / "hub"


def _hf_home(environ: Mapping[str, str]) -> Path:
    if environ.get("HF_HOME"):
        return Path(environ["HF_HOME"]).expanduser()
    return Path(environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "huggingface"


def offline(environ: Mapping[str, str] = os.environ) -> str | None:
    """The variable that forbids asking the hub, None where it may be asked."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if environ.get(name, "").lower() in TRUE:
            return name
    return None


def has_token(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether there is an access token for the hub; its value is never read."""
    if environ.get("HF_TOKEN") or environ.get("HUGGING_FACE_HUB_TOKEN"):
        return True
    path = environ.get("HF_TOKEN_PATH")
    return (Path(path).expanduser() if path else _hf_home(environ) / "token").is_file()


def token(environ: Mapping[str, str] = os.environ) -> str | None:
    """The access token, for a request to the hub itself; None where there is none."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if environ.get(name):
            return environ[name].strip()
    path = environ.get("HF_TOKEN_PATH")
    with contextlib.suppress(OSError, UnicodeDecodeError):
        found = Path(path).expanduser() if path else _hf_home(environ) / "token"
        return found.read_text(encoding="ascii").strip() or None
    return None


def snapshot(
    hub_id: str, revision: str | None = None, environ: Mapping[str, str] = os.environ
) -> tuple[Path, str] | None:
    """The cached folder of a model and its commit; None where that revision was never downloaded.

    A revision is a commit, a branch or a tag; without one it is the branch `main`. A folder that was only
    partly downloaded is returned too: whether its weights are complete is seen from the files.
    """
    model = hub_cache(environ) / f"models--{hub_id.replace('/', '--')}"
    wanted = revision or "main"
    commit = wanted
    with contextlib.suppress(OSError, UnicodeDecodeError):  # no such branch: it may be a commit itself
        commit = (model / "refs" / wanted).read_text(encoding="ascii").strip()
    folder = model / "snapshots" / commit
    return (folder, commit) if commit not in ("", ".", "..") and folder.is_dir() else None
