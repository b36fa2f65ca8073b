"""Records of deployments for tests, as `up` would have left them."""

from __future__ import annotations

from typing import Any

from stand_ins.faulty_server import MODEL, WIDTH

from deploytool.identity import myself
from deploytool.launch import LaunchSpec, Readiness
from deploytool.models import ModelCard
from deploytool.records import Deployment


def deployment(port: int, *, name: str = "mini", **fields: Any) -> Deployment:
    """A ready deployment of the stand-in's model on `port`, run by this process; `fields` replace its own."""
    launch = LaunchSpec(
        engine="sentence-transformers",
        argv=("python",),
        model=MODEL,
        model_path="/models/stand-in",
        host="127.0.0.1",
        port=port,
        readiness=Readiness(path="/ready", probe_timeout_s=5, start_timeout_s=60),
    )
    card = ModelCard(name=MODEL, title="Stand-in", kind="embedding", dimensions=WIDTH, licence="none")
    known: dict[str, Any] = {
        "id": f"{name}-1",
        "name": name,
        "engine": "sentence-transformers",
        "runtime": "process",
        "profile": "cpu",
        "model": MODEL,
        "state": "ready",
        "created_at": "2026-01-01T00:00:00+00:00",
        "launch": launch,
        "plan": {"dtype": "float32"},
        "process": myself(),
        "card": card.model_dump(mode="json"),
    }
    return Deployment(**(known | fields))
