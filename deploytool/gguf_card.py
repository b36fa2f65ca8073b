"""The card of a GGUF file, and whether a file is the model of a card that somebody names beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from deploytool.errors import BadInput, Incompatible
from deploytool.gguf_header import GgufHeader, read_header
from deploytool.models import DECODERS, Architecture, ModelCard, Pooling

ENDING = ".gguf"
# llama.h: enum llama_pooling_type; the last one is a reranker's.
POOLINGS: dict[int, Pooling] = {1: "mean", 2: "cls", 3: "last"}
RANK = 4
# llama.h: enum llama_ftype, those that are common
TYPES = {
    0: "float32", 1: "float16", 2: "q4_0", 3: "q4_1", 7: "q8_0", 8: "q5_0", 9: "q5_1", 10: "q2_k", 11: "q3_k_s",
    12: "q3_k_m", 13: "q3_k_l", 14: "q4_k_s", 15: "q4_k_m", 16: "q5_k_s", 17: "q5_k_m", 18: "q6_k", 32: "bfloat16",
}  # fmt: skip


def read_gguf(path: Path) -> ModelCard:
    """The card that the file's own header gives. Raises BadInput."""
    header = read_header(path)
    pooling = _fact(header, "pooling_type")
    kind: Literal["embedding", "reranker", "encoder"] = "encoder"
    if pooling in POOLINGS:
        kind = "embedding"
    elif pooling == RANK:
        kind = "reranker"
    architecture = _architecture(header, path)
    return ModelCard(
        name=path.stem,
        title=str(header.facts.get("general.name") or path.stem),
        kind=kind,
        gguf=str(path),
        parameters=header.parameters or None,
        architecture=architecture,
        dimensions=_fact(header, "embedding_length_out") or architecture.hidden,
        pooling=POOLINGS.get(pooling) if isinstance(pooling, int) else None,
        max_tokens=_fact(header, "context_length"),
        licence=str(header.facts.get("general.license") or "unknown"),
        notes=("no prompts are in a GGUF file: where the model wants some, name its card beside it",),
        sources=(f"the header of {path}",),
        origin=f"file {path}",
    )


def with_gguf(card: ModelCard, path: Path) -> ModelCard:
    """The card, served from a GGUF file. Raises Incompatible where the file holds another model."""
    if not path.is_file():
        raise BadInput(f"there is no file {path}", hint="--set gguf=FILE.gguf")
    found = read_gguf(path.resolve())
    ours, its = card.architecture, found.architecture
    unlike = []
    if card.dimensions is not None and card.dimensions != found.dimensions:
        unlike.append(f"dimensions: the card says {card.dimensions}, the file {found.dimensions}")
    if ours is not None and its is not None and ours.layers != its.layers:
        unlike.append(f"layers: the card says {ours.layers}, the file {its.layers}")
    if card.pooling is not None and found.pooling is not None and card.pooling != found.pooling:
        unlike.append(f"pooling: the card says {card.pooling}, the file {found.pooling}")
    if unlike:
        raise Incompatible(
            f"{path.name} is not {card.name}: its vectors would be another model's",
            hint="take the GGUF file of this model, or give the file instead of the card's name",
            details=unlike,
        )
    return card.model_copy(update={"gguf": str(path.resolve())})


def number_format(path: Path) -> str:
    """What the weights are stored in, as llama.cpp names it: float16, q8_0, q4_k_m."""
    kind = read_header(path).facts.get("general.file_type")
    return TYPES.get(kind, f"type {kind}") if isinstance(kind, int) else "unknown"


def only_file(folder: Path) -> Path | None:
    """The GGUF file of a folder that holds no other model; BadInput where there are several."""
    files = sorted(folder.glob(f"*{ENDING}"))
    if not files or (folder / "config.json").is_file() or (folder / "modules.json").is_file():
        return None
    if len(files) > 1:
        names = ", ".join(file.name for file in files[:4])
        raise BadInput(f"{folder} holds {len(files)} GGUF files: {names}", hint=f"give one: {files[0]}")
    return files[0]


def _fact(header: GgufHeader, name: str) -> Any:
    return header.facts.get(f"{header.facts.get('general.architecture')}.{name}")


def _architecture(header: GgufHeader, path: Path) -> Architecture:
    kind = str(header.facts.get("general.architecture", ""))
    wanted = ("embedding_length", "feed_forward_length", "block_count", "attention.head_count")
    figures = {name: _fact(header, name) for name in wanted}
    missing = [name for name, value in figures.items() if not isinstance(value, int) or value < 1]
    if missing:
        raise BadInput(
            f"{path} cannot be used: its header lacks {', '.join(f'{kind}.{name}' for name in missing)}",
            hint="is it a text embedding model?",
        )
    hidden, heads = figures["embedding_length"], figures["attention.head_count"]
    kv_heads = _fact(header, "attention.head_count_kv")
    return Architecture(
        class_name=kind,
        model_type=kind,
        hidden=hidden,
        intermediate=figures["feed_forward_length"],
        layers=figures["block_count"],
        heads=heads,
        kv_heads=kv_heads if isinstance(kv_heads, int) and kv_heads else heads,
        head_dim=_fact(header, "attention.key_length") or max(hidden // heads, 1),
        vocab=header.facts.get("tokenizer.ggml.tokens") or 1,
        max_positions=_fact(header, "context_length"),
        swiglu=kind in DECODERS,
    )
