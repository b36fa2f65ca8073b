"""The layers of the design, walked: a module imports only from below, and the CLI's way stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from deploytool.cli.verbs import COMMANDS

PACKAGE = Path(__file__).resolve().parent.parent / "deploytool"

# Lower numbers are deeper. A module may import modules with a smaller number, or its own part.
LAYERS: dict[str, int] = {
    "__init__": 0, "errors": 0, "paths": 0, "schema": 0, "documents": 1,
    "hardware": 2, "models": 3, "identity": 1, "glance": 2, "launch": 3, "contained": 4,
    "memory": 4, "records": 4, "statistics": 2, "settings": 4,
    "wire": 1, "yaml_text": 0, "hub_cache": 0, "hub_metadata": 2, "safetensors_header": 1,
    "model_rules": 4, "model_modules": 4, "model_folder": 5, "word_vectors": 5, "gguf_header": 1, "gguf_card": 5,
    "planning": 5, "deployment_file": 5, "state_file": 5,
    "samples": 6, "store": 6, "catalog": 6, "model_files": 6, "endpoint": 6, "engines": 6, "runtimes": 6,
    "router_api": 6,
    "exporters": 6, "telemetry": 6, "loadgen": 6, "reports": 6, "retrieval": 6, "golden": 7, "calibrations": 7,
    "probes": 8,
    "targets": 8, "plans": 8, "fitting": 9, "preflight": 9, "deployment": 10, "benchmark": 10, "evaluation": 10,
    "comparison": 10, "thresholds": 2, "noise": 3, "sizing": 4, "compared": 4, "capacity": 11, "gate": 11,
    "reference": 9, "from_file": 9, "exporting": 9, "verification": 9, "calibrating": 11, "doctor": 11,
    "weighing": 4, "decision": 5, "launching": 10, "bakeoff": 12,
    "cli": 13, "__main__": 14,
}  # fmt: skip
APART = ("st_server", "router")
MODULES = sorted(PACKAGE.rglob("*.py"))


def part(module: str) -> str:
    """The part of the design a module belongs to: the name below the package."""
    pieces = module.split(".")
    return pieces[1] if len(pieces) > 1 else "__init__"


def imports(path: Path) -> set[str]:
    """All modules of the package that a file imports, also inside functions and under TYPE_CHECKING."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide a module's layer"
            base = node.module or ""
            found |= {f"{base}.{alias.name}" for alias in node.names} if base == "deploytool" else {base}
    return {name for name in found if name == "deploytool" or name.startswith("deploytool.")}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_below(path: Path) -> None:
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    for name in imports(path):
        other = part(name)
        if other in (own, "__version__", "__init__"):
            continue
        if own in APART:
            pytest.fail(f"{path.name} imports {name}: the server is a program of its own")
        assert other not in APART, f"{path.name} imports {name}: the server is started, never imported"
        assert other in LAYERS, f"{name} has no layer: name it in LAYERS"
        assert LAYERS[other] < LAYERS[own], f"{own} (layer {LAYERS[own]}) imports {name} ({LAYERS[other]})"


def test_locustfiles_stand_alone() -> None:
    folder = PACKAGE.parent / "loadtests"
    files = sorted(folder.rglob("*.py"))
    assert files
    for path in files:
        assert not imports(path), (
            f"{path} imports deploytool: anyone must be able to run it with plain locust"
        )


# What takes tens of milliseconds to import, and is of no use to these verbs.
UNNEEDED = {
    "plan all-minilm-l6-v2 --profile a10g": ("httpx", "rich", "psutil", "sqlite3", "deploytool.records"),
    "ps": (
        "typer",
        "pydantic",
        "httpx",
        "rich",
        "psutil",
        "yaml",
        "pynvml",
        "deploytool.models",
        "deploytool.engines",
    ),
    "profiles list": ("httpx", "rich", "psutil", "sqlite3", "pynvml", "deploytool.engines"),
}
HEAVY = ("torch", "locust", "gevent", "docker", "numpy", "pyarrow", "starlette", "uvicorn", "transformers")


VERB_MODULES = sorted({f"deploytool.cli.{verb.module}" for verb in COMMANDS.values()})


@pytest.mark.parametrize("module", VERB_MODULES)
def test_a_verb_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


@pytest.mark.parametrize("words", UNNEEDED)
def test_a_verb_loads_only_what_it_needs(words: str) -> None:
    code = (
        f"import sys; from deploytool.cli.main import run; code = run({words.split()!r}); "
        f"print([name for name in {(*HEAVY, *UNNEEDED[words])!r} if name in sys.modules], file=sys.stderr); "
        "sys.exit(code)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stderr.splitlines()[-1] == "[]"
