"""The JSON files of a model's folder, and what the modules of Sentence Transformers among them say.

Two styles are read: the one that versions before 6 wrote (`pooling_mode_mean_tokens: true`,
`word_embedding_dimension`) and the present one (`pooling_mode: "mean"`, `embedding_dimension`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploytool.errors import BadInput
from deploytool.models import Matryoshka, Pooling, Prompts

Json = Mapping[str, Any]

POOLINGS: dict[str, Pooling] = {
    "cls": "cls", "max": "max", "mean": "mean", "lasttoken": "last",
    "weightedmean": "weighted-mean", "mean_sqrt_len_tokens": "mean-sqrt-len",
}  # fmt: skip
OLD_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
HIDDEN = ("hidden_size", "n_embd", "d_model", "dim")
POSITIONS = ("max_position_embeddings", "n_positions")
UNLIMITED = 1_000_000  # tokenizers without a limit say 10^30


class ModelFolder:
    """The JSON files of one model folder, and the notes that reading them gives."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.notes: list[str] = []
        self.own_code = False
        self.modules = self._modules()
        first = next((path for kind, path in self.modules if kind == "Transformer"), "")
        self.transformer = root / first
        self.config = self.object(self.transformer / "config.json")

    def _modules(self) -> list[tuple[str, str]]:
        """(class, folder) of each Sentence Transformers module, in order; empty where there are none."""
        listed = _json(self.root / "modules.json")
        if listed is None:
            return []
        if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
            raise broken(self.root / "modules.json", "expected a list of modules")
        modules = [(str(entry.get("type", "")), str(entry.get("path", ""))) for entry in listed]
        if any(".." in Path(path).parts or Path(path).is_absolute() for _, path in modules):
            raise broken(self.root / "modules.json", "a module lies outside the model's folder")
        own = [kind for kind, _ in modules if kind and not kind.startswith("sentence_transformers.")]
        if own:
            self.notes.append(f"modules.json names code of its own: {', '.join(own)}")
        self.own_code = bool(own)
        return [(kind.rsplit(".", 1)[-1], path) for kind, path in modules]

    def object(self, path: Path) -> Json:
        found = _json(path)
        if found is None:
            return {}
        if not isinstance(found, dict):
            raise broken(path, "expected an object")
        return found

    def module(self, kind: str) -> Json | None:
        """The config of the first module of a class, None where there is none."""
        for name, path in self.modules:
            if name == kind:
                return self.object(self.root / path / "config.json")
        return None

    def beside(self, name: str) -> Json:
        """A JSON file beside the transformer's config, {} where there is none."""
        return self.object(self.transformer / name)


def pooling(files: ModelFolder) -> Pooling | None:
    config = files.module("Pooling")
    if config is None:
        return None
    modes = _modes(config)
    if len(modes) == 1 and modes[0] in POOLINGS:
        return POOLINGS[modes[0]]
    files.notes.append(f"pools by {' + '.join(modes)}, which only Sentence Transformers computes")
    return None


def _modes(config: Json) -> list[str]:
    stated = config.get("pooling_mode")
    if stated is None:
        return [mode for key, mode in OLD_POOLINGS.items() if config.get(key)] or ["mean"]
    return [str(mode) for mode in stated] if isinstance(stated, list) and stated else [str(stated)]


def dimensions(files: ModelFolder, config: Json) -> int | None:
    """The width of a vector: that of the last projection, else of the pooling, else the hidden size."""
    projected = (files.module("Dense") or {}).get("out_features")
    if projected:
        return int(projected)
    pool = files.module("Pooling") or {}
    width = pool.get("embedding_dimension") or pool.get("word_embedding_dimension")
    if isinstance(width, int):
        return width * len(_modes(pool))  # several poolings are put side by side
    found: int | None = next((config[key] for key in HIDDEN if config.get(key)), None)
    return found


def matryoshka(config: Json) -> Matryoshka | None:
    sizes = config.get("matryoshka_dimensions")
    if not config.get("is_matryoshka") or not isinstance(sizes, list) or not sizes:
        return None
    return Matryoshka(sizes=tuple(sizes))


def prompts(settings: Json) -> Prompts:
    stated = settings.get("prompts")
    if not isinstance(stated, dict):
        return Prompts()

    def first(*names: str) -> str:
        return next((str(stated[name]) for name in names if stated.get(name)), "")

    return Prompts(
        query=first("query", "search_query", "retrieval.query"),
        document=first("document", "passage", "search_document", "retrieval.passage"),
    )


def max_tokens(files: ModelFolder, config: Json) -> int | None:
    """Tokens that Sentence Transformers reads of a text: its own limit, else tokenizer's or positions."""
    own = files.beside("sentence_bert_config.json").get("max_seq_length")
    if isinstance(own, int) and own > 0:
        return own
    tokenizer = files.beside("tokenizer_config.json").get("model_max_length")
    positions = next((config[key] for key in POSITIONS if config.get(key)), None)
    if isinstance(positions, int) and config.get("model_type") in ("roberta", "xlm-roberta"):
        positions -= 2  # positions start after the padding index
    numbers = [limit for limit in (tokenizer, positions) if isinstance(limit, int | float)]
    return min((int(limit) for limit in numbers if 0 < limit < UNLIMITED), default=None)


def _json(path: Path) -> Any:
    """A JSON file, None where it does not exist. Raises BadInput for one that cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except json.JSONDecodeError as error:
        raise broken(path, f"line {error.lineno}: {error.msg}") from error
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise broken(path, str(error)) from error


def broken(path: Path, problem: str) -> BadInput:
    return BadInput(f"{path} cannot be used: {problem}", hint="mend the file, or download the model again")
