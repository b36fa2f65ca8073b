"""The child that writes exports: `python -m deploytool.st_server.backends.exporter FLAGS -- FOLDER KIND...`.

torch lives and dies here: the server that asked for the export never loads it. For each kind it writes
FOLDER/KIND/ (graph, tokenizer.json, probes.npz, facts.json last) or FOLDER/KIND.failed with the reason.
"""

from __future__ import annotations

import os
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deploytool.st_server import config as configuration
from deploytool.st_server import exports
from deploytool.st_server.backends import probe, torch_model
from deploytool.st_server.backends.torch_backend import TorchBackend
from deploytool.st_server.errors import StartError
from deploytool.st_server.stages import say_fatal

OPSET = 17
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OUTPUT = "sentence_embedding"


class Graph(torch.nn.Module):  # type: ignore[misc]
    """The model's whole pipeline (transformer, pooling, normalisation ...) as one function of tensors."""

    def __init__(self, model: torch.nn.Module, inputs: list[str]) -> None:
        super().__init__()
        self.model = model
        self.inputs = inputs

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        rows: torch.Tensor = self.model(dict(zip(self.inputs, tensors, strict=True)))[OUTPUT]
        return rows.float()


def main() -> int:
    _die_with_parent()
    warnings.simplefilter("ignore")
    at = sys.argv.index("--")
    config = configuration.parse(sys.argv[1:at], {})
    target, kinds = Path(sys.argv[at + 1]), sys.argv[at + 2 :]
    try:
        torch.set_num_threads(config.threads)
        loaded = torch_model.load(config, Path(config.model), lambda _: None)
        backend = TorchBackend(loaded, config)
        backend.prove(config)
        facts, kept = _facts(backend, loaded.model), _kept(backend)
    except StartError as error:
        say_fatal(error)
        return error.exit_code
    # The fused attention of torch has no counterpart in either graph; the plain one is recognised and fused.
    loaded.model.transformers_model.set_attn_implementation("eager")
    for kind in kinds:
        folder = target / kind
        folder.mkdir()
        try:
            _write(kind, Graph(loaded.model, facts.inputs), facts, folder)
        except Exception as error:  # whatever a tracer raises over an architecture that it does not know
            reason = " ".join(f"{type(error).__name__}: {error}".split())[: exports.REASON_CHARACTERS]
            (target / f"{kind}.failed").write_text(reason, encoding="utf-8")
            continue
        backend.tokenizer.save(folder / "tokenizer.json")
        np.savez(folder / "probes.npz", **kept)
        exports.write_facts(folder, facts)
    return 0


def _facts(backend: TorchBackend, model: Any) -> exports.Facts:
    padding = backend.padding
    return exports.Facts(
        dimensions=backend.info.dimensions,
        own_length=backend.own_length,
        positions=torch_model.positions(model),
        vocabulary=backend.info.vocabulary,
        normalized=backend.info.normalized,
        prompt=backend.prompt,
        pad=padding.token,
        left=padding.left,
        truncation_side=str(model.tokenizer.truncation_side),
        inputs=list(INPUTS if padding.type_ids else INPUTS[:2]),
        torch_score=probe.score(backend),
    )


def _kept(backend: TorchBackend) -> dict[str, Any]:
    """What torch gives for the probes, each alone: the pipeline was compared with `encode` just before."""
    ids = backend.tokenizer.encode(probe.PROBES, truncate=True)
    return {
        "vectors": np.concatenate([backend.embed([row], alone=True) for row in ids]),
        "lengths": np.array([len(row) for row in ids]),
        "max_length": np.array(backend.info.max_length),
    }


def _write(kind: str, graph: Graph, facts: exports.Facts, folder: Path) -> None:
    ids = torch.randint(1, min(1000, facts.vocabulary), (2, 9))
    mask = torch.ones_like(ids)
    mask[1, slice(3) if facts.left else slice(6, None)] = 0
    example = (ids, mask, torch.zeros_like(ids))[: len(facts.inputs)]
    path = folder / exports.GRAPHS[kind]
    with torch.no_grad():
        if kind == "onnx":
            _write_onnx(graph, example, facts.inputs, path)
        else:
            _write_openvino(graph, example, path)


def _write_onnx(graph: Graph, example: tuple[torch.Tensor, ...], inputs: list[str], path: Path) -> None:
    axes = {name: {0: "texts", 1: "tokens"} for name in inputs}
    torch.onnx.export(
        graph, example, str(path), dynamo=False, opset_version=OPSET, input_names=inputs,
        output_names=[OUTPUT], dynamic_axes={**axes, OUTPUT: {0: "texts"}},
    )  # fmt: skip


def _write_openvino(graph: Graph, example: tuple[torch.Tensor, ...], path: Path) -> None:
    from deploytool.st_server.backends.quiet_openvino import openvino

    converted = openvino.convert_model(graph, example_input=example)
    for port, name in zip(converted.inputs, graph.inputs, strict=True):
        port.get_tensor().set_names({name})
    openvino.save_model(converted, str(path), compress_to_fp16=False)


def _die_with_parent() -> None:
    """End where the server is gone: its end of stdin closes."""

    def watch() -> None:
        sys.stdin.buffer.read()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)  # past torch's own clean-up, which can take seconds
