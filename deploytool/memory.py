"""GPU memory of an embedding server: weights, pool or activations, context; lower, expected, upper.

The rules and their sources stand with each function. None of the coefficients was measured on hardware of
ours: that is why an estimate is a range.
"""

from __future__ import annotations

from typing import Literal

from deploytool.schema import Document

FitVerdict = Literal["fits", "tight", "does_not_fit", "unknown"]


class MemoryEstimate(Document):
    """All in MiB, per card. `pool_mib` is SGLang's static token pool, None for engines without one."""

    weights_mib: float
    pool_mib: float | None = None
    activations_mib: float
    context_mib: float
    lower_mib: float
    expected_mib: float
    upper_mib: float
    available_mib: float | None = None
    available_from: str = "profile"
    verdict: FitVerdict = "unknown"
    reason: str = ""
