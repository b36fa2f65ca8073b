"""The model's files before anything is loaded: found, and safe to load (safetensors, no code). No torch."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deploytool.st_server.config import Config
from deploytool.st_server.errors import BadUsage, LoadFailed, Missing, NotServable

WANTED = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.py"]
CLASSIFIES = "ForSequenceClassification"
LIBRARY = "sentence_transformers."
LASER2 = "laser2"
MAX_HEADER_BYTES = 100_000_000
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def locate(config: Config, stage: Callable[[str], None]) -> Path:
    """The model's folder: the one that was named, or the hub's snapshot. Raises Missing or NotServable."""
    if Path(config.model).is_file():
        return Path(config.model).resolve()  # word vectors as text: backends/words_backend.py
    folder = Path(config.model).resolve() if config.is_folder else _snapshot(config, stage)
    if not (folder / "config.json").is_file() and not (folder / "modules.json").is_file():
        raise Missing(f"{folder} holds no model: neither config.json nor modules.json is there")
    _only_safetensors(folder)
    _no_code(folder, config)
    if reranks(folder):
        _refuse_flags_of_embedders(config)
    elif config.pooling is None and not (folder / "modules.json").is_file() and not is_laser2(folder):
        raise NotServable(
            f"{config.model} is an encoder without a pooling of its own: its vectors depend on the choice",
            hint="choose one: --pooling mean|cls|last",
        )
    return folder


def is_laser2(folder: Path) -> bool:
    """Whether it is a folder of convert_laser2: its pooling is part of the model."""
    described = document(folder, "config.json")
    return isinstance(described, dict) and described.get("model_type") == LASER2


def document(folder: Path, name: str) -> Any:
    """A JSON file of the model; None where it is not there. Raises LoadFailed."""
    try:
        return json.loads((folder / name).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise LoadFailed(f"{folder / name} cannot be read: {error}") from error


def reranks(folder: Path) -> bool:
    """Whether it is a reranker (CrossEncoder): by its own word, else by a head that classifies pairs."""
    stated = document(folder, "config_sentence_transformers.json")
    if isinstance(stated, dict) and "model_type" in stated:
        return bool(stated["model_type"] == "CrossEncoder")
    if (folder / "modules.json").is_file():
        return False
    described = document(folder, "config.json")
    classes = described.get("architectures") if isinstance(described, dict) else None
    return isinstance(classes, list) and any(str(name).endswith(CLASSIFIES) for name in classes)


def _refuse_flags_of_embedders(config: Config) -> None:
    given = {
        "--pooling": config.pooling,
        "--matryoshka": config.matryoshka,
        "--query-prompt": config.query_prompt,
        "--document-prompt": config.document_prompt,
        "--normalize": config.normalize or None,
        f"--backend {config.backend}": config.backend in ("onnx", "openvino") or None,
    }
    wrong = [name for name, value in given.items() if value is not None]
    if wrong:
        raise BadUsage(
            f"{', '.join(wrong)}: {config.model} is a reranker, which gives scores and no vectors",
            hint="leave it out",
        )


def modules(folder: Path) -> list[tuple[str, Path]]:
    """(class, folder) of each module of the pipeline; a plain encoder is one Transformer."""
    listed = document(folder, "modules.json")
    if listed is None:
        return [(f"{LIBRARY}models.Transformer", folder)]
    try:
        return [(str(entry["type"]), folder / entry["path"]) for entry in listed]
    except (TypeError, KeyError) as error:
        raise LoadFailed(f"{folder / 'modules.json'} is not a list of modules") from error


def _only_safetensors(folder: Path) -> None:
    parts = modules(folder)
    for number, (_, part) in enumerate(parts):
        safe = any(part.glob("*.safetensors"))
        pickled = sorted(file.name for pattern in PICKLED for file in part.glob(pattern))
        if pickled and not safe:
            raise Missing(
                f"{part} has its weights as {pickled[0]} only: pickled files can run code and are not loaded",
                hint="take the model's safetensors, or convert it: https://huggingface.co/spaces/safetensors/convert",
            )
        if number == 0 and not safe:
            raise Missing(f"{part} holds no *.safetensors: the model's weights are missing")
        for file in sorted(part.glob("*.safetensors")):
            _refuse_cut(file)


def _refuse_cut(file: Path) -> None:
    """A safetensors file is 8 bytes (the header's size), the header (JSON), and the tensors' bytes."""
    try:
        with file.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            if size > MAX_HEADER_BYTES:
                raise ValueError(size)
            header = json.loads(stream.read(size))
        tensors = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        whole = 8 + size + max(tensors, default=0)
        found = file.stat().st_size
    except (OSError, ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
        raise Missing(f"{file} is not a safetensors file") from error
    if found != whole:
        raise Missing(
            f"{file} is {found} bytes, its header says {whole}: the download is incomplete",
            hint="fetch the model again",
        )


def _snapshot(config: Config, stage: Callable[[str], None]) -> Path:
    name = config.model
    if os.sep in name.removesuffix(os.sep) and (name.startswith((".", "~", os.sep)) or name.count("/") > 1):
        raise Missing(f"there is no folder {name}")
    from huggingface_hub import errors, snapshot_download

    stage("locating model")
    options: dict[str, Any] = {"revision": config.revision, "allow_patterns": WANTED}
    try:
        try:
            return Path(snapshot_download(name, local_files_only=True, **options))
        except errors.LocalEntryNotFoundError:
            if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
                raise Missing(
                    f"{name} is not in the Hugging Face cache, and HF_HUB_OFFLINE forbids to fetch it",
                    hint="name a local folder, or unset HF_HUB_OFFLINE",
                ) from None
            stage("downloading model")
            return Path(snapshot_download(name, **options))
    except errors.HFValidationError as error:
        raise Missing(f"{name!r} is neither a folder nor a hub id (org/name)") from error
    except errors.GatedRepoError as error:
        raise Missing(
            f"{name} is gated: its terms must be accepted, and HF_TOKEN set",
            hint=f"https://huggingface.co/{name}",
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        at = f" at revision {config.revision}" if config.revision else ""
        raise Missing(
            f"the hub has no {name}{at}, or it is private", hint="check the name; private: HF_TOKEN"
        ) from error
    except (OSError, errors.HfHubHTTPError) as error:
        raise Missing(
            f"{name} could not be fetched: {type(error).__name__}: {error}",
            hint="name a local folder, or check the network",
        ) from error


def _no_code(folder: Path, config: Config) -> None:
    """Raises NotServable where the pipeline needs Python of the repository and may not run it."""
    if config.trust_remote_code:
        return
    for name, _ in modules(folder):
        if not name.startswith(LIBRARY):
            raise NotServable(
                f"the module {name} of this model is code of its repository",
                hint="read that code, then --trust-remote-code --revision <commit>",
            )


def needs_offered_code(folder: Path) -> bool:
    """Whether config.json offers code of its own for the model (it may also be served without)."""
    described = document(folder, "config.json")
    return isinstance(described, dict) and "AutoModel" in (described.get("auto_map") or {})
