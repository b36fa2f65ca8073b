"""Loading a Sentence Transformers model: safetensors only, complete, with the pooling it was made for."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from sentence_transformers import CrossEncoder, SentenceTransformer

from deploytool.st_server import model_folder as files
from deploytool.st_server.backends import base
from deploytool.st_server.backends.base import Stage
from deploytool.st_server.config import Config
from deploytool.st_server.errors import (
    DoesNotFit,
    LoadFailed,
    Missing,
    NotServable,
    StartError,
)

POOLINGS = {"mean": "mean", "cls": "cls", "last": "lasttoken"}
# Heads that Sentence Transformers does not use; checkpoints often come without them.
UNUSED_WEIGHTS = re.compile(r"(^|\.)(pooler|lm_head|cls|classifier|score)(\.|$)")
ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Loaded:
    """A model on its device, in eval mode; `path` is where its files are."""

    model: Any  # SentenceTransformer or CrossEncoder: a torch.nn.Sequential of the pipeline's modules
    path: Path
    device: torch.device
    dtype: torch.dtype


def load(config: Config, path: Path, stage: Stage, *, reranks: bool = False) -> Loaded:
    """An embedder, or a reranker. Raises StartError."""
    device = _device(config.device)
    dtype = _dtype(config.dtype, device)
    stage("loading model")
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
    try:
        with _missing_weights() as missing:
            model = _model(path, config, device, dtype, reranks=reranks)
    except torch.OutOfMemoryError as error:
        raise DoesNotFit(f"out of memory while loading {config.model} on {device}: {error}") from error
    except StartError:
        raise
    except Exception as error:  # whatever other people's loading code raises
        raise _load_failure(error, config) from error
    _refuse_incomplete([name for name in missing if reranks or not UNUSED_WEIGHTS.search(name)], path, config)
    _refuse_other_kinds(model, config)
    if any(parameter.device.type == "meta" for parameter in model.parameters()):
        raise LoadFailed(f"some weights of {config.model} were not loaded")
    _forget_keys_and_values(model)
    model.eval()
    return Loaded(model, path, device, dtype)


def max_length(model: Any, config: Config) -> int:
    """See base.max_length. Raises BadUsage."""
    return base.max_length(own_length(model), positions(model), config)


def own_length(model: Any) -> int | None:
    """Tokens of a text that the model's own files say are read."""
    own = getattr(model, "max_seq_length", None)
    return None if own is None else int(own)


def _model(path: Path, config: Config, device: torch.device, dtype: torch.dtype, *, reranks: bool) -> Any:
    shipped = (path / "modules.json").is_file()
    # Newer transformers say `dtype`; older ones only know `torch_dtype`.
    major, minor = (int(part) for part in transformers.__version__.split(".")[:2])
    kwargs = {"use_safetensors": True, "dtype" if (major, minor) >= (4, 56) else "torch_dtype": dtype}
    options: dict[str, Any] = {
        "device": str(device),
        "local_files_only": True,
        "trust_remote_code": config.trust_remote_code,
        "model_kwargs": kwargs,
    }
    if config.trust_remote_code and config.revision:
        options["config_kwargs"] = {"code_revision": config.revision}
        kwargs["code_revision"] = config.revision
    if reranks:
        return CrossEncoder(str(path), **options)
    model = SentenceTransformer(str(path), **options)
    _set_pooling(model, config, shipped=shipped)
    return model


def _forget_keys_and_values(model: Any) -> None:
    """A decoder keeps them for the next token, and there is none: 112 KiB a token of Qwen3-Embedding-0.6B.

    Sentence Transformers leaves that as it is before 6.2 (seen with 6.0.1).
    """
    config: Any = getattr(model.transformers_model, "config", None)
    if getattr(config, "use_cache", False):
        config.use_cache = False


def _set_pooling(model: Any, config: Config, *, shipped: bool) -> None:
    if config.pooling is None:
        return
    pooling = next((part for part in model if type(part).__name__ == "Pooling"), None)
    wanted = POOLINGS[config.pooling]
    if not shipped:
        if pooling is None:
            raise NotServable(f"{config.model} gives no token embeddings that could be pooled")
        pooling.pooling_mode = wanted
        return
    own = getattr(pooling, "pooling_mode", None)
    if own != wanted:
        raise NotServable(
            f"{config.model} ships its own pooling ({own}); with {wanted} its vectors would be wrong",
            hint="leave out --pooling",
        )


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda"):
        if not torch.cuda.is_available():
            why = (
                "this PyTorch is built without CUDA"
                if torch.version.cuda is None
                else "no usable GPU is seen"
            )
            raise Missing(
                f"--device {name}: {why}", hint="--device cpu, or check the driver and CUDA_VISIBLE_DEVICES"
            )
        index = int(name.partition(":")[2] or 0)
        if index >= torch.cuda.device_count():
            raise Missing(f"--device {name}: there are {torch.cuda.device_count()} GPUs, counted from 0")
        return torch.device("cuda", index)
    return torch.device(name)


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        if device.type == "cpu":
            return torch.float32
        # bfloat16 needs compute capability 8.0.
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def positions(model: Any) -> int | None:
    """Tokens that the model has positions for; RoBERTa's learned tables begin after the padding id."""
    described = getattr(model, "config", None) or getattr(model.transformers_model, "config", None)
    found = getattr(described, "max_position_embeddings", None)
    if not isinstance(found, int) or found < 1:
        return None
    for part in model.transformers_model.modules():
        padding = getattr(part, "padding_idx", None)
        if isinstance(padding, int) and isinstance(
            getattr(part, "position_embeddings", None), torch.nn.Embedding
        ):
            return found - padding - 1
    return found


class _Report(logging.Handler):
    """Keeps the report that transformers logs where weights and architecture do not match."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.missing: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        for line in ANSI.sub("", record.getMessage()).splitlines():
            name, _, rest = line.partition("|")
            if rest.strip().startswith(("MISSING", "MISMATCH")):
                self.missing.append(name.strip())


@contextmanager
def _missing_weights() -> Iterator[list[str]]:
    """The names of weights that the files did not hold and that were made up at random while loading."""
    report = _Report()
    logger = logging.getLogger("transformers")
    handlers, level = logger.handlers[:], logger.level
    logger.handlers = [report]
    logger.setLevel(logging.WARNING)
    try:
        yield report.missing
    finally:
        logger.handlers = handlers
        logger.setLevel(level)


def _refuse_incomplete(wrong: list[str], path: Path, config: Config) -> None:
    if not wrong:
        return
    offered = files.needs_offered_code(path) and not config.trust_remote_code
    raise NotServable(
        f"{config.model} lacks weights of its architecture ({', '.join(wrong[:3])}"
        f"{f' and {len(wrong) - 3} more' if len(wrong) > 3 else ''}): its vectors would be random",
        hint="it needs code of its repository: --trust-remote-code --revision <commit>"
        if offered
        else "the files are incomplete or of another architecture",
    )


def _refuse_other_kinds(model: Any, config: Config) -> None:
    first = model[0]
    if type(first).__name__ != "Transformer" or model.transformers_model is None:
        raise NotServable(
            f"{config.model} begins with {type(first).__name__}: only Transformer models are served"
        )
    modalities = getattr(first, "modality_config", {"text": None})
    if "text" not in modalities or "message" in modalities:
        raise NotServable(
            f"{config.model} reads {', '.join(map(str, modalities))}: only plain text is served"
        )
    if not getattr(model.tokenizer, "is_fast", False):
        raise NotServable(f"{config.model} has no fast tokenizer (tokenizer.json)")


def _load_failure(error: Exception, config: Config) -> StartError:
    text = f"{type(error).__name__}: {error}"
    if "out of memory" in text or "can't allocate memory" in text:
        return DoesNotFit(f"out of memory while loading {config.model}: {error}")
    if "trust_remote_code" in text:
        return NotServable(
            f"{config.model} needs code of its repository",
            hint="read that code, then --trust-remote-code --revision <commit>",
        )
    if isinstance(error, ImportError):
        return Missing(f"{config.model} needs a package: {error}")
    return LoadFailed(f"{config.model} could not be loaded: {text}")
