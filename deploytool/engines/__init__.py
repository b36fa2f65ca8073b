"""Serving engines, by the name that users write. A new one is one module and one line here."""

from __future__ import annotations

from deploytool.engines.llama_cpp import LlamaCpp
from deploytool.engines.sentence_transformers import SentenceTransformers
from deploytool.engines.sglang import SGLang
from deploytool.errors import UnknownName
from deploytool.planning import Engine

ENGINES: dict[str, Engine] = {
    "sglang": SGLang(),
    "sentence-transformers": SentenceTransformers(),
    "llama-cpp": LlamaCpp(),
}


def engine(name: str) -> Engine:
    """The engine of that name; UnknownName with the nearest."""
    if name not in ENGINES:
        raise UnknownName("engine", name, ENGINES)
    return ENGINES[name]
