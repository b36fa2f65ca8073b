"""ONNX Runtime on processors. This module is the only one with onnxruntime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime

from deploytool.st_server.backends import exported
from deploytool.st_server.backends.base import Stage
from deploytool.st_server.backends.exported import ExportedBackend, Run, Vectors
from deploytool.st_server.backends.padding import Arrays
from deploytool.st_server.config import Config

ERRORS_ONLY = 3


def load(config: Config, folder: Path, stage: Stage) -> ExportedBackend:
    """Raises StartError."""
    return exported.load("onnx", open_graph, config, folder, stage)


def open_graph(graph: Path, lanes: int, threads: int) -> Run:
    """The session, which several lanes use at once; each computes in its own thread where threads are few."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    options.intra_op_num_threads = max(1, threads // lanes)
    options.inter_op_num_threads = 1
    # A plan of memory is kept for each shape of a batch, and they are thousands: 10 MiB, and no faster.
    options.enable_mem_pattern = False
    # A thread that spins takes the core that another lane or the event loop needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])

    def run(features: Arrays) -> Vectors:
        return np.asarray(session.run(None, features)[0], np.float32)

    return run
