"""Ready means proven: real embeddings of the running server, judged by the model's card."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deploytool.deployment.keys import recorded_key
from deploytool.errors import Unhealthy
from deploytool.models import ModelCard
from deploytool.records import Deployment, known_fields

if TYPE_CHECKING:
    from deploytool.endpoint import Client
    from deploytool.probes import Check

REQUEST_TIMEOUT_S = 120.0  # the first batch on a slow card may compile kernels


def proven(deployment: Deployment, environ: Mapping[str, str]) -> None:
    """The readiness proof; Unhealthy with what was seen where the vectors are not right."""
    from deploytool.golden import find
    from deploytool.probes import prove

    card = card_of(deployment)
    with client_of(deployment, environ) as client:
        checks = prove(
            client,
            card,
            golden=find(card, _profiles(deployment)),
            dtype=deployment.dtype,
            max_length=deployment.max_length,
        )
    _judge(deployment, checks)


def smoked(deployment: Deployment, environ: Mapping[str, str], progress: Callable[[str], None]) -> None:
    """All smoke checks; Unhealthy with what was seen where one does not hold."""
    from deploytool.golden import find
    from deploytool.probes import smoke

    card = card_of(deployment)
    with client_of(deployment, environ) as client:
        checks = smoke(
            client,
            card,
            ours=True,
            key_enforced=deployment.key_source is not None,
            dtype=deployment.dtype,
            golden=find(card, _profiles(deployment)),
            max_length=deployment.max_length,
        )
    _judge(deployment, checks)
    skipped = sum(check.passed is None for check in checks)
    progress(f"smoke: {len(checks) - skipped} checks passed, {skipped} skipped")


def _profiles(deployment: Deployment) -> Path | None:
    return Path(deployment.profiles_dir) if deployment.profiles_dir else None


def card_of(deployment: Deployment) -> ModelCard | None:
    return ModelCard.model_validate(known_fields(ModelCard, deployment.card)) if deployment.card else None


def client_of(deployment: Deployment, environ: Mapping[str, str]) -> Client:
    """A client with the deployment's model name and key."""
    from deploytool.endpoint import Client

    key = recorded_key(deployment, environ)
    return Client(
        deployment.launch.url,
        model=deployment.launch.model,
        api_key=key.value if key else None,
        timeout_s=REQUEST_TIMEOUT_S,
    )


def _judge(deployment: Deployment, checks: Sequence[Check]) -> None:
    failed = [check for check in checks if check.passed is False]
    if not failed:
        return
    lines = []
    for check in failed:
        lines.append(f"{check.name}: saw {check.saw}; expected {check.expected}")
        if check.hint:
            lines.append(f"  likely cause: {check.hint}")
    raise Unhealthy(
        f"{deployment.name} answers, but not rightly: {', '.join(check.name for check in failed)}",
        hint=f"--keep-failed leaves it running: look with `deploytool smoke {deployment.name}`",
        details=lines,
    )
