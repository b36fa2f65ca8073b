"""The highest rate at which a server holds an SLO, found with few requests, and the plan that follows."""

from __future__ import annotations

from deploytool.capacity.finding import CapacityOptions, find

__all__ = ["CapacityOptions", "find"]
