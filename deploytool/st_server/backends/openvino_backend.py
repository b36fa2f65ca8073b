"""OpenVINO on processors. This module is the only one that computes with it."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np

from deploytool.st_server.backends import exported
from deploytool.st_server.backends.base import Stage
from deploytool.st_server.backends.exported import ExportedBackend, Run, Vectors
from deploytool.st_server.backends.padding import Arrays
from deploytool.st_server.backends.quiet_openvino import openvino
from deploytool.st_server.config import Config


def load(config: Config, folder: Path, stage: Stage) -> ExportedBackend:
    """Raises StartError."""
    return exported.load("openvino", open_graph, config, folder, stage)


def open_graph(graph: Path, lanes: int, threads: int) -> Run:
    """One compiled model with a stream and an infer request for each lane."""
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": lanes,
        # Newer processors would compute in bfloat16 by themselves: the vectors would differ.
        "INFERENCE_PRECISION_HINT": "f32",
    }
    compiled = openvino.Core().compile_model(str(graph), "CPU", settings)
    lane = threading.local()

    def run(features: Arrays) -> Vectors:
        if not hasattr(lane, "request"):
            lane.request = compiled.create_infer_request()
        # A copy: the request's own memory is written anew by the next batch.
        return np.array(lane.request.infer(features)[0], np.float32)

    return run
