"""Which golden file is that of a model: by name, and by its weights, so that nobody is judged by another's.

Files lie beside the profiles: `golden/*.json` in the folders of the search path.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from deploytool import model_files
from deploytool.errors import DeploytoolError, InvalidFile, Problem
from deploytool.golden.document import Golden, Weights, digest, prompts_of
from deploytool.models import ModelCard
from deploytool.paths import profile_dirs
from deploytool.safetensors_header import weight_files

KIND = "golden"
PIECES, PIECE = 64, 16 * 1024  # 1 MiB of a file, whatever its size, tells fine-tunes of one model apart
MAX_BYTES = 256 * 2**20


class Found(NamedTuple):
    """The golden vectors of a model and their file; without them `reason` says why, `mend` what to do."""

    golden: Golden | None
    path: Path | None = None
    reason: str = ""
    mend: str = ""


def find(card: ModelCard | None, profiles_dir: Path | None = None) -> Found:
    """The golden vectors of a card. Never raises: what cannot be used is a reason.

    A file is taken where it is of the same model, prompts and weights. Weights are compared with the digests
    of the card, else with the files that would be served, where they are here.
    """
    if card is None:
        return Found(None, reason="no model card", mend="say which model it is with --model")
    if card.kind in ("api", "reranker"):
        return Found(None, reason=f"a model of kind {card.kind} has none")
    rejected: list[Found] = []
    here: Path | None = None
    looked = False
    for path in candidates(card.name, profiles_dir):
        try:
            golden = read(path)
        except InvalidFile as error:
            rejected.append(Found(None, path, f"{error.problems[0]}", _again(card)))
            continue
        if not looked:
            here, looked = folder_of(card), True
        why = _unlike(golden, card, here)
        if why is None:
            return Found(golden, path)
        rejected.append(Found(None, path, f"{path.name} is not used: {why}", _again(card)))
    if rejected:
        return rejected[0]
    return Found(None, reason=f"no golden vectors of {card.name} are here", mend=_again(card))


def candidates(name: str, profiles_dir: Path | None = None) -> list[Path]:
    """Files that may be a model's, in the order of the search path: NAME.json, then NAME@*.json."""
    found: list[Path] = []
    for folder in profile_dirs(KIND, profiles_dir):
        inside = {path.name: path for path in folder.glob("*.json")}
        exact = inside.get(f"{name}.json")
        found += [exact] if exact else []
        found += [inside[file] for file in sorted(inside) if file.startswith(f"{name}@")]
    return found


def read(path: Path) -> Golden:
    """One golden file. Raises InvalidFile, with all its problems, where it cannot be used."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InvalidFile([Problem(path, None, "", f"larger than {MAX_BYTES // 2**20} MiB")])
        return Golden.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InvalidFile([Problem(path, None, "", error.strerror or str(error))]) from error
    except ValidationError as error:
        problems = [
            Problem(path, None, ".".join(map(str, one["loc"])), one["msg"])
            for one in error.errors(include_url=False, include_input=False, include_context=False)
        ]
        raise InvalidFile(problems, hint="make it again: deploytool golden make MODEL") from error


def folder_of(card: ModelCard) -> Path | None:
    """The folder that the card's model would be served from, None where its files are not here."""
    try:
        path = model_files.locate(card, verify=False).path
    except DeploytoolError:
        return None
    return Path(path) if path is not None else None


def weights_of(folder: Path) -> list[Path]:
    """The files of the weights, as `model_files` serves them."""
    return weight_files(folder) or sorted(folder.glob("*/*.safetensors"))


def sample(path: Path) -> str:
    """A digest of a file's size and of pieces spread over it: other weights give another one.

    Reads 1 MiB at most. It tells files apart that happen to differ; it proves nothing against malice.
    """
    size = path.stat().st_size
    found = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for piece in range(PIECES):
            file.seek(max(0, (size - PIECE) * piece // (PIECES - 1)))
            found.update(file.read(PIECE))
    return found.hexdigest()


def described(folder: Path) -> tuple[Weights, ...]:
    """Every file of the weights with its digests; reads all of them. Raises NotAvailable."""
    return tuple(
        Weights(
            file=path.relative_to(folder).as_posix(),
            bytes=path.stat().st_size,
            sha256=model_files.sha256(path),
            sample=sample(path),
        )
        for path in weights_of(folder)
    )


def _unlike(golden: Golden, card: ModelCard, folder: Path | None) -> str | None:
    """Why a golden file is not that of a card; None where it is."""
    if golden.hub_id and card.hub_id and golden.hub_id.lower() != card.hub_id.lower():
        return f"it is of {golden.hub_id}"
    changed = [kind for kind, text in prompts_of(card).items() if golden.prompts.get(kind) != digest(text)]
    if changed:
        return f"the card's {' and '.join(changed)} prompt is another than it was made with"
    if card.pooling is not None and golden.pooling is not None and golden.pooling != card.pooling:
        return f"it was made with {golden.pooling} pooling, the card says {card.pooling}"
    return _unlike_weights(golden, card, folder)


def _unlike_weights(golden: Golden, card: ModelCard, folder: Path | None) -> str | None:
    """By the card's digests, else by the files that are here, else by the revision."""
    known = {weights.file: weights for weights in golden.weights}
    stated = {name: value for name, value in card.sha256.items() if name.endswith(".safetensors")}
    if stated:
        same = all(name in known and known[name].sha256 == value for name, value in stated.items())
        return None if same else "the card names other weights"
    if folder is not None:
        return _unlike_files(known, folder)
    if golden.revision != card.revision:
        return f"it was made with revision {golden.revision}, the card says {card.revision}"
    return None


def _unlike_files(known: dict[str, Weights], folder: Path) -> str | None:
    present = {path.relative_to(folder).as_posix(): path for path in weights_of(folder)}
    try:
        same = present.keys() == known.keys() and all(
            path.stat().st_size == known[name].bytes and sample(path) == known[name].sample
            for name, path in present.items()
        )
    except OSError as error:
        return f"{folder} cannot be read: {error.strerror or error}"
    return None if same else f"it was made with other weights than those in {folder}"


def _again(card: ModelCard) -> str:
    return f"make them: deploytool golden make {card.folder or card.name}"
