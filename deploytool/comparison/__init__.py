"""Two or more load runs compared: the same work, the differences, and whether they are more than noise."""

from __future__ import annotations

from deploytool.comparison.compare import compare
from deploytool.comparison.sides import Measured, read_side, same_work

__all__ = ["Measured", "compare", "read_side", "same_work"]
