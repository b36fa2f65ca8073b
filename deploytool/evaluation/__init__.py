"""Retrieval quality of any endpoint: figures with intervals, and what a data set can show of a difference."""

from __future__ import annotations

from deploytool.evaluation.options import EvalOptions, IndexOptions, Progress, Silent
from deploytool.evaluation.record import EvalRecord
from deploytool.evaluation.run import evaluate

__all__ = ["EvalOptions", "EvalRecord", "IndexOptions", "Progress", "Silent", "evaluate"]
