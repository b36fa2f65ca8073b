"""A model card read off a model's own files: config.json and the files of Sentence Transformers.

Nothing of the model is executed. Where config.json names code of its own (`auto_map`), the card says that
remote code is needed, and that is all that happens.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from deploytool.errors import BadInput
from deploytool.hardware import Dtype
from deploytool.model_modules import (
    HIDDEN,
    POSITIONS,
    Json,
    ModelFolder,
    broken,
    dimensions,
    matryoshka,
    max_tokens,
    pooling,
    prompts,
)  # fmt: skip
from deploytool.models import DECODERS, Architecture, ModelCard, RemoteCode
from deploytool.safetensors_header import parameters, weight_files

Kind = Literal["embedding", "reranker", "encoder"]

# config.json's names for one figure, by model family
FIGURES = {
    "hidden": HIDDEN,
    "intermediate": ("intermediate_size", "n_inner", "ffn_dim", "hidden_dim"),
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "heads": ("num_attention_heads", "n_head", "n_heads"),
    "vocab": ("vocab_size",),
}
LASER2 = "laser2"  # what st_server.convert_laser2 writes
GATED = (*DECODERS, "gemma", "gemma2", "gemma3_text", "modernbert", "nomic_bert", "phi3")


def read_folder(
    folder: Path,
    *,
    name: str,
    origin: str,
    hub_id: str | None = None,
    revision: str | None = None,
    weights: tuple[int | None, str | None] | None = None,
) -> ModelCard:
    """The card of the model in a folder. Raises BadInput for a broken or missing config.json.

    `weights`: (parameters, dtype), where they are known although the weights are not in the folder.
    """
    files = ModelFolder(folder)
    if not files.config and not files.modules:
        raise BadInput(
            f"{folder} holds no config.json: it is not a model's folder",
            hint="give the folder that config.json and the weights lie in",
        )
    config = files.config.get("text_config") or files.config
    settings = files.object(folder / "config_sentence_transformers.json")
    kind = _kind(files, settings)
    architecture = _architecture(files, config)
    laser2 = files.config.get("model_type") == LASER2
    count, dtype = _weights(files) if weights is None else weights
    try:
        return ModelCard(
            name=name,
            title=name,
            kind=kind,
            hub_id=hub_id,
            revision=revision,
            folder=str(folder) if hub_id is None else None,
            parameters=count,
            weights_dtype=dtype or _dtype(config),
            quantization=_quantization(files.config),
            architecture=architecture,
            dimensions=2 * architecture.hidden
            if laser2 and architecture
            else dimensions(files, config)
            if kind != "reranker"
            else None,
            matryoshka=matryoshka(files.config),
            pooling="max" if laser2 else pooling(files) if kind == "embedding" else None,
            normalize=any(module == "Normalize" for module, _ in files.modules),
            prompts=prompts(settings),
            max_tokens=max_tokens(files, config),
            licence=_licence(folder),
            languages=_languages(folder),
            remote_code=_remote_code(files),
            notes=tuple(files.notes),
            sources=(f"the model's own files in {folder}",),
            origin=origin,
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise broken(files.transformer / "config.json", f"{field}: {first['msg']}") from error


def _kind(files: ModelFolder, settings: Json) -> Kind:
    stated = settings.get("model_type")
    if stated == "SparseEncoder":
        raise BadInput(
            f"{files.root} is a sparse encoder: it gives no dense vectors", hint="take an embedding model"
        )
    classes = [str(entry) for entry in files.config.get("architectures") or []]
    if stated == "CrossEncoder" or (
        not files.modules and any(entry.endswith("ForSequenceClassification") for entry in classes)
    ):
        return "reranker"
    if files.config.get("model_type") == LASER2:
        return "embedding"
    if any(kind == "Pooling" for kind, _ in files.modules) or (files.modules and not files.config):
        return "embedding"
    files.notes.append("no pooling is shipped with it (no modules.json with a Pooling module)")
    return "encoder"


def _architecture(files: ModelFolder, config: Json) -> Architecture | None:
    if not files.config:
        files.notes.append("no config.json of a transformer: its memory cannot be estimated")
        return None
    if config.get("model_type") == LASER2:
        # As wide and deep as an encoder of its LSTM's size: four gates in each direction.
        config = {**config, "intermediate_size": 4 * config.get("hidden_size", 0), "num_attention_heads": 1}
        config |= {"vocab_size": config.get("num_embeddings")}
    figures: dict[str, Any] = {
        name: next((config[key] for key in keys if config.get(key) is not None), None)
        for name, keys in FIGURES.items()
    }
    if figures["intermediate"] is None and isinstance(figures["hidden"], int) and "n_inner" in config:
        figures["intermediate"] = 4 * figures["hidden"]
    missing = [FIGURES[name][0] for name, value in figures.items() if value is None]
    if missing:
        files.notes.append(f"config.json lacks {', '.join(missing)}: its memory cannot be estimated")
        return None
    model_type = str(config.get("model_type", "unknown"))
    try:
        head_dim = config.get("head_dim") or figures["hidden"] // figures["heads"]
    except (TypeError, ZeroDivisionError) as error:
        raise broken(files.transformer / "config.json", "hidden_size and heads are not numbers") from error
    classes = files.config.get("architectures") or ["unknown"]
    activation = str(config.get("activation_function", ""))
    try:
        return Architecture(
            class_name=str(classes[0]),
            model_type=model_type,
            **figures,
            kv_heads=config.get("num_key_value_heads") or figures["heads"],
            head_dim=head_dim,
            max_positions=next((config[key] for key in POSITIONS if config.get(key)), None),
            token_types=config.get("type_vocab_size"),
            tied_embeddings=bool(files.config.get("tie_word_embeddings", True)),
            swiglu=model_type in GATED or "glu" in activation,
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = FIGURES.get(str(first["loc"][0]), (str(first["loc"][0]),))[0]
        raise broken(files.transformer / "config.json", f"{field}: {first['msg']}") from error


def _weights(files: ModelFolder) -> tuple[int | None, str | None]:
    present = [path for path in weight_files(files.transformer) if path.exists()]
    if not present or len(present) < len(weight_files(files.transformer)):
        return None, None
    if files.config.get("quantization_config"):
        files.notes.append("quantised weights: the parameter count cannot be read off the files")
        return None, None
    return parameters(present)


def _quantization(config: Json) -> str | None:
    stated = config.get("quantization_config")
    method = stated.get("quant_method") if isinstance(stated, dict) else None
    return str(method).lower() if method else None


def _dtype(config: Json) -> Dtype | None:
    stated = config.get("dtype") or config.get("torch_dtype")
    return stated if stated in ("float32", "float16", "bfloat16") else None


def _remote_code(files: ModelFolder) -> RemoteCode:
    auto_map = files.config.get("auto_map")
    if isinstance(auto_map, dict) and auto_map:
        target = str(next(iter(auto_map.values())))
        repository = target.split("--", 1)[0] if "--" in target else None
        return RemoteCode(
            required=True, repository=repository, reason="config.json names code of its own (auto_map)"
        )
    if files.own_code:
        return RemoteCode(required=True, reason="modules.json names code of its own")
    return RemoteCode(required=False)


def _front_matter(folder: Path) -> str:
    """The front matter of README.md; empty where there is none."""
    try:
        head = (folder / "README.md").read_text(encoding="utf-8", errors="replace")[:20_000]
    except OSError:
        return ""
    front = re.match(r"---\s*\n(.*?)\n---", head, re.DOTALL)
    return front.group(1) if front else ""


def _licence(folder: Path) -> str:
    """The licence that the front matter of README.md states."""
    found = re.search(r"^license:\s*([\w.+-]+)\s*$", _front_matter(folder), re.MULTILINE)
    return found.group(1) if found else "unknown"


def _languages(folder: Path) -> str | None:
    """The language, or the list of them, that the front matter of README.md states."""
    found = re.search(
        r"^language:\s*(?:([\w-]+)|\[([^\]\n]*)\]|((?:\n\s*- *[\w-]+)+))\s*$",
        _front_matter(folder),
        re.MULTILINE,
    )
    if found is None:
        return None
    return ", ".join(re.findall(r"\w[\w-]*", "".join(part or "" for part in found.groups()))) or None
