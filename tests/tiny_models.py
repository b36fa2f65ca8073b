"""Tiny models with random weights and the tokenizer of a real one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def make_tiny(source: Path, target: Path, kind: str, **fields: Any) -> Path:
    code = (
        "import sys, json, torch, transformers;"
        "from sentence_transformers import SentenceTransformer, models;"
        "source, target, kind, fields = sys.argv[1:]; torch.manual_seed(3);"
        "tokenizer = transformers.AutoTokenizer.from_pretrained(source);"
        "config = getattr(transformers, kind)(**{'vocab_size': 30522, 'hidden_size': 32,"
        " 'num_hidden_layers': 1, 'num_attention_heads': 2, 'intermediate_size': 48,"
        " 'max_position_embeddings': 256, **json.loads(fields)});"
        "model = transformers.AutoModel.from_config(config); model.save_pretrained(target);"
        "tokenizer.save_pretrained(target); word = models.Transformer(target, max_seq_length=128);"
        "SentenceTransformer(modules=[word, models.Pooling(config.hidden_size, pooling_mode='mean')]).save(target)"
    )
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(source), str(target), kind, json.dumps(fields)],
        check=True, capture_output=True, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    return target
