"""Whether a container will see, and can read, the model's files of this machine."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from pathlib import Path

from deploytool.contained import model
from deploytool.errors import NotAvailable
from deploytool.launch import LaunchSpec


def check(spec: LaunchSpec, user: str) -> None:
    """NotAvailable where the container would not see, or could not read, the model's files."""
    path = Path(spec.model_path).expanduser()
    if not path.is_dir():
        raise NotAvailable(
            f"the model's folder is not here: {path}",
            hint="a container is given files of this machine: `hf download MODEL` first, or give its folder",
        )
    found = model(spec)
    root = Path(found.bind.source).resolve()
    # Files of a cache lie beside the snapshot, those of a folder within: nothing may lie further away.
    files = [entry for entry in path.rglob("*") if entry.is_file() or entry.is_symlink()]
    outside = [str(entry) for entry in files if not entry.resolve().is_relative_to(root)]
    if outside:
        raise NotAvailable(
            f"{outside[0]} is a link out of the folder: a container that sees {root} alone cannot follow it",
            hint="copy the folder with its files (`cp -rL`), and give that",
        )
    unreadable = _unreadable((path, *files), user)
    if unreadable:
        raise NotAvailable(
            f"the server's user in the container ({user}) may not read {unreadable}",
            hint=f"chmod -R a+rX {path}",
        )


def _unreadable(paths: Iterable[Path], user: str) -> Path | None:
    """The first file that the container's user cannot read by its mode; None: all can be."""
    uid, gid = map(int, user.split(":"))
    if uid == 0:
        return None
    for path in paths:
        found = path.stat()
        shift = 6 if found.st_uid == uid else 3 if found.st_gid == gid else 0
        wanted = 0o5 if stat.S_ISDIR(found.st_mode) else 0o4
        if (found.st_mode >> shift) & wanted != wanted:
            return path
    return None
