"""Which backend computes: the one that was named, or on a processor the fastest whose vectors are right.

`auto` exports the model once, times each runtime that is installed in a child process, and remembers what it
found for this model, these versions and this processor. Everything that stands in the way of a faster
runtime ends in torch, with a line that says why.
"""

from __future__ import annotations

import hashlib
import json
import platform
from pathlib import Path

from deploytool.st_server import exports, model_folder
from deploytool.st_server.backends import loader
from deploytool.st_server.backends.base import Backend, Stage
from deploytool.st_server.config import Config
from deploytool.st_server.errors import StartError
from deploytool.st_server.model_folder import is_laser2
from deploytool.st_server.stages import say

AS_FAST = 1.05  # two timings of the same thing differ by as much


def load(config: Config, folder: Path, stage: Stage) -> Backend:
    """Raises StartError."""
    if folder.is_file():
        return _named("words", config, folder, stage)
    if is_laser2(folder):
        return _named("laser2", config, folder, stage)
    if model_folder.reranks(folder):
        return _named("reranker", config, folder, stage)
    if config.backend != "auto":
        return _named(config.backend, config, folder, stage)
    kinds = _candidates(config)
    name = "torch"
    if kinds:
        try:
            name = _fastest(config, folder, kinds, stage)
            if name != "torch":
                return _named(name, config, folder, stage)
        except StartError as error:
            say(f"note: torch computes: {error.message}")
        except Exception as error:  # a runtime's surprise; torch is what all models are made with
            say(f"note: torch computes: {name} failed: {type(error).__name__}")
    return _named("torch", config, folder, stage)


def _named(name: str, config: Config, folder: Path, stage: Stage) -> Backend:
    stage(f"importing {name}")
    return loader(name)(config, folder, stage)


def _candidates(config: Config) -> list[str]:
    """Runtimes that are installed, where they could compute what torch would."""
    if config.dtype not in ("auto", "float32") or config.device not in ("auto", "cpu"):
        return []
    if config.device == "auto" and Path("/proc/driver/nvidia/version").exists():
        return []
    return [kind for kind in exports.GRAPHS if exports.installed(kind)]


def _fastest(config: Config, folder: Path, kinds: list[str], stage: Stage) -> str:
    found = exports.get(config, folder, kinds, stage)
    name = f"choice-{_circumstances(config, folder, kinds)}"
    kept = exports.recall(config, name)
    if isinstance(kept, dict) and kept.get("backend") in ("torch", *kinds):
        return str(kept["backend"])
    stage("comparing backends")
    scores: dict[str, float] = {}
    for kind, export in found.items():
        if isinstance(export, str):
            say(f"note: no {kind}: {export}")
            continue
        scores["torch"] = export.facts.torch_score
        try:
            scores[kind] = _score(config, folder, kind)
        except ValueError as error:
            say(f"note: no {kind}: {error}")
    best = _best(scores)
    exports.remember(config, name, {"backend": best, "scores_ms": scores})
    say(
        "note: " + ", ".join(f"{kind} {value:.1f} ms" for kind, value in sorted(scores.items())) + f": {best}"
    )
    return best


def _best(scores: dict[str, float]) -> str:
    """The fastest; of those that are as good as equal the lightest, in the order of exports.GRAPHS."""
    fastest = min(scores.values(), default=0.0)
    near = [kind for kind, value in scores.items() if value <= fastest * AS_FAST]
    return next((kind for kind in (*exports.GRAPHS, "torch") if kind in near), "torch")


def _score(config: Config, folder: Path, kind: str) -> float:
    """Raises ValueError with the reason where it does not compute, or computes something else."""
    done = exports.run_child("backends.compare", [*exports.child_flags(config, folder), "--", kind])
    if done.returncode != 0:
        raise ValueError(exports.reason(done))
    return float(done.stdout.split()[-1])


def _circumstances(config: Config, folder: Path, kinds: list[str]) -> str:
    """Names the model, the versions, the processor and its share."""
    keys = [exports.key(config, folder, kind) for kind in kinds]
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        lines = [line for line in text.splitlines() if line.startswith(("model name", "CPU part"))][:1]
    except OSError:
        lines = []
    seen = [keys, lines, platform.machine(), config.threads, config.lanes]
    return hashlib.sha256(json.dumps(seen).encode()).hexdigest()[:16]
