"""The door to OpenVINO: without its telemetry, which forks processes and reports to its makers.

OpenVINO's tools take a silent stand-in of their own where the telemetry package cannot be imported.
"""

from __future__ import annotations

import sys

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

import openvino  # noqa: E402

__all__ = ["openvino"]
