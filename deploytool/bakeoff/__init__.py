"""Which system to deploy: quality, latency, memory and cost of several, side by side, from one file."""

from __future__ import annotations

from deploytool.bakeoff.config import Bakeoff, example, read
from deploytool.bakeoff.progress import Progress
from deploytool.bakeoff.run import bake_off

__all__ = ["Bakeoff", "Progress", "bake_off", "example", "read"]
