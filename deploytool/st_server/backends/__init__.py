"""What computes: one module per backend, loaded when it is chosen.

A new one is a module with `load(config, folder, stage) -> Backend` and a line here.
"""

from __future__ import annotations

import importlib

from deploytool.st_server.backends.base import Loader
from deploytool.st_server.errors import Missing

BACKENDS: dict[str, str] = {
    **{
        name: f"deploytool.st_server.backends.{name}_backend"
        for name in ("torch", "onnx", "openvino", "laser2", "words")
    },
    "reranker": "deploytool.st_server.backends.torch_reranker",
}
EXTRAS = {"torch": "serve", "reranker": "serve", "laser2": "serve", "words": "serve"}


def loader(name: str) -> Loader:
    """The backend's `load`. Importing it may take seconds (torch). Raises Missing."""
    try:
        module = importlib.import_module(BACKENDS[name])
    except ImportError as error:
        raise Missing(
            f"the backend {name} needs the package {error.name or error}, which cannot be imported",
            hint=f"pip install 'deploytool[{EXTRAS.get(name, name)}]'",
        ) from error
    load: Loader = module.load
    return load
