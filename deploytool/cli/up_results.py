"""What became of the deployments of a file: results, errors, and an old one that is brought back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from deploytool import deployment as deployments
from deploytool.cli.deploy_view import Narrator
from deploytool.cli.output import note, table
from deploytool.errors import DeploytoolError
from deploytool.records import Deployment
from deploytool.store import Store

WIDEST = 60
Did = Literal["up", "restarted", "replaced", "scaled", "as asked", "noted", "changed", "failed"]


class Result(NamedTuple):
    """What became of one deployment of the file."""

    name: str
    did: Did
    deployment: Deployment | None = None
    error: DeploytoolError | None = None

    def document(self) -> dict[str, Any]:
        public = self.deployment.public() if self.deployment else None
        return {
            "name": self.name,
            "result": self.did,
            "deployment": public,
            **(self.error.document() if self.error else {"error": None}),
        }


def bring_back(
    before: Deployment, replicas: Sequence[Deployment], store: Store, error: DeploytoolError
) -> None:
    """The deployment as it was before its replacement failed; what became of it goes into the error."""
    was_up = before.state in ("ready", "starting")
    narrator = Narrator()
    try:
        for one in (before, *replicas):
            stopped = {"state": "stopped", "wanted": "stopped", "reason": "replaced in vain"}
            back = one.model_copy(update=stopped)
            back.process = back.supervisor = back.container = back.owner = None
            store.reserve(back)
        if was_up:
            deployments.restart(before.name, store, narrator.line, tick=narrator.tick)
        outcome = "the one before it runs again" if was_up else "the record of the one before it is back"
    except DeploytoolError as second:
        outcome = f"the one before it could not be brought back: {second.message}"
    finally:
        narrator.clear()
    error.details = (*error.details, outcome)


def tell(name: str, error: DeploytoolError) -> None:
    note(f"error: {name}: {error.message}")
    for line in error.details:
        note(f"  {line}")
    if error.hint:
        note(f"hint: {error.hint}")


def show(results: list[Result]) -> None:
    rows = [
        (one.name, one.did, one.deployment.state if one.deployment else None,
         one.deployment.launch.url if one.deployment else None, _short(one.error.message) if one.error else None)
        for one in results
    ]  # fmt: skip
    table(("NAME", "RESULT", "STATE", "URL", "WHY"), rows)


def _short(message: str) -> str:
    """The whole of it was told on stderr."""
    return message if len(message) <= WIDEST else message[: WIDEST - 3] + "..."
