"""Serving engines, by the name that users write. A new one is one module and one line here."""

from __future__ import annotations

from typing import Protocol

from deploytool.engines.llama_cpp import LlamaCpp
from deploytool.engines.sentence_transformers import SentenceTransformers
from deploytool.engines.sglang import SGLang
from deploytool.engines.sglang_router import SGLangRouter
from deploytool.errors import UnknownName
from deploytool.glance import ROUTER
from deploytool.planning import Cause, Engine

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


class Program(Protocol):
    """What the start of any server needs to know: an engine, or the router in front of several."""

    install: str

    def stage(self, line: str) -> str | None:
        """See planning.Engine."""

    def diagnose(self, log_tail: str) -> Cause | None:
        """See planning.Engine."""


def program(name: str) -> Program:
    """What `LaunchSpec.engine` names; UnknownName with the nearest."""
    return SGLangRouter() if name == ROUTER else engine(name)
