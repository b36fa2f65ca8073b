"""Tiny models with random weights and the tokenizer of a real one, made without loading torch."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np

INTERMEDIATE, POSITIONS, READS = 48, 256, 128
KEPT = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


def make_tiny(source: Path, target: Path, *, hidden: int = 32, layers: int = 1) -> Path:
    """A Sentence Transformers folder like the BERT in `source`, of that size, without its normalisation."""
    from safetensors.numpy import load_file, save_file

    target.mkdir(parents=True)
    for name in KEPT:
        shutil.copy(source / name, target / name)
    config = json.loads((source / "config.json").read_text())
    sizes: dict[int, int] = {
        config["hidden_size"]: hidden,
        config["intermediate_size"]: INTERMEDIATE,
        config["max_position_embeddings"]: POSITIONS,
    }
    _write(target / "config.json", config | {
        "hidden_size": hidden, "intermediate_size": INTERMEDIATE, "max_position_embeddings": POSITIONS,
        "num_hidden_layers": layers, "num_attention_heads": 2,
    })  # fmt: skip
    chance = np.random.default_rng(3)
    weights = {}
    for name, tensor in load_file(source / "model.safetensors").items():
        layer = re.match(r"encoder\.layer\.(\d+)\.", name)
        if tensor.dtype != np.float32 or (layer and int(layer[1]) >= layers):
            continue
        shape = [sizes.get(size, size) for size in map(int, tensor.shape)]
        if name.endswith("bias"):
            weights[name] = np.zeros(shape, np.float32)
        elif "LayerNorm" in name:
            weights[name] = np.ones(shape, np.float32)
        else:
            weights[name] = chance.normal(0, config["initializer_range"], shape).astype(np.float32)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    _write(target / "modules.json", json.loads((source / "modules.json").read_text())[:2])
    pooling = json.loads((source / "1_Pooling" / "config.json").read_text())
    _write(target / "1_Pooling" / "config.json", pooling | {"word_embedding_dimension": hidden})
    _write(target / "sentence_bert_config.json", {"max_seq_length": READS, "do_lower_case": False})
    return target


def _write(path: Path, document: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document), encoding="utf-8")
