"""Load runs: a grid of cells against one endpoint, each stored as soon as it is measured.

A run is a record from its first second: what was measured before the tool was killed, interrupted or ran out
of disk is there, and `--resume` goes on with what is missing.
"""

from __future__ import annotations

from deploytool.benchmark.grid import LoadRun
from deploytool.benchmark.options import LoadOptions, Progress, resume_options, scenario_values
from deploytool.benchmark.repeats import run_series
from deploytool.benchmark.run import exit_code, run_load

__all__ = [
    "LoadOptions",
    "LoadRun",
    "Progress",
    "exit_code",
    "resume_options",
    "run_load",
    "run_series",
    "scenario_values",
]
