"""Fetch a model's files into a folder, whole and checked. Runs inside an engine's image, on its own.

    python3 fetch_model.py REPOSITORY REVISION FOLDER [FILE=SHA256 ...]

An empty REVISION is the repository's default branch. Only safetensors are fetched as weights, and no code.
What is there already is not fetched again.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

PATTERNS = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.vocab", "LICENSE*", "README.md"]
BLOCK = 1 << 20


def main(repository: str, revision: str, folder: str, *digests: str) -> str | None:
    """What is wrong, None where nothing is."""
    from huggingface_hub import snapshot_download

    target = Path(folder)
    snapshot_download(repository, revision=revision or None, local_dir=target, allow_patterns=PATTERNS)
    if not any(target.rglob("*.safetensors")):
        return f"{repository} has no *.safetensors: nothing else is loaded"
    for digest in digests:
        name, _, expected = digest.partition("=")
        if sha256(target / name) != expected:
            return f"{name} of {repository} is not the file that was asked for: its sha256 is another"
    return None


def sha256(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            found.update(block)
    return found.hexdigest()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
