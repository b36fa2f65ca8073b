"""Where files are: the packaged data, the user's configuration, and the state of this tool.

`DEPLOYTOOL_HOME` moves everything that the tool writes into one folder (tests use it).
"""

from __future__ import annotations

import os
from pathlib import Path

APP = "deploytool"


def packaged(kind: str) -> Path:
    """The folder `profiles` or `loadtests` as installed: inside the wheel, or beside the source tree."""
    here = Path(__file__).resolve().parent
    inside = here / "_data" / kind
    return inside if inside.is_dir() else here.parent / kind


def data_dir() -> Path:
    """Deployments, run records, samples and logs. Made on first use, readable by the user alone."""
    return _made(_home("data"))


def cache_dir() -> Path:
    return _made(_home("cache"))


def config_dir() -> Path:
    """The user's own profiles and settings. Not made: it is the user's."""
    return _home("config")


def deployment_folder(home: Path, deployment_id: str) -> Path:
    """Where a deployment's log and ending are, in the folder of a state file. It may not be there."""
    return home / "deployments" / deployment_id


def _home(kind: str) -> Path:
    home = os.environ.get("DEPLOYTOOL_HOME")
    if home:
        return Path(home).expanduser().resolve() / kind
    import platformdirs

    folder: str = getattr(platformdirs, f"user_{kind}_dir")(APP)
    return Path(folder)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def profile_dirs(kind: str, extra: Path | None = None) -> list[Path]:
    """Folders searched for `kind` ("hardware" or "models"), first found wins.

    `--profiles-dir`, `DEPLOYTOOL_PROFILES` (os.pathsep-separated), `./profiles`, the user's, the packaged.
    """
    roots = [extra] if extra else []
    roots += [Path(part) for part in os.environ.get("DEPLOYTOOL_PROFILES", "").split(os.pathsep) if part]
    roots += [Path("profiles"), config_dir() / "profiles", packaged("profiles")]
    folders: list[Path] = []
    for root in roots:
        folder = root.expanduser().absolute() / kind
        if folder.is_dir() and folder not in folders:
            folders.append(folder)
    return folders
