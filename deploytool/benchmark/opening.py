"""The record that a run begins with: a new one, or a stored one that goes on."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime

from deploytool.benchmark import surroundings
from deploytool.benchmark.options import LoadOptions
from deploytool.errors import BadInput
from deploytool.identity import myself
from deploytool.loadgen.work import Work
from deploytool.records import RunRecord
from deploytool.targets import Resolved


def new(target: Resolved, options: LoadOptions, the_work: Work) -> RunRecord:
    now = datetime.now(UTC)
    return RunRecord(
        id=f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}",
        state="running",
        started_at=now.isoformat(timespec="milliseconds"),
        target=surroundings.target_document(target),
        request={**options.request(), "text_tokens_unit": the_work.unit, "texts": len(the_work.texts)},
        manifest=the_work.manifest,
        environment=surroundings.environment(),
        owner=myself(),
    )


def resumed(record: RunRecord, target: Resolved, the_work: Work) -> RunRecord:
    """The stored run, ready to go on. BadInput where the work or the target is another one now.

    Cells that are measured again stay in it until they are.
    """
    if record.state == "running":
        raise BadInput(
            f"run {record.id} is still running", hint="wait for it, or end it with Ctrl-C where it runs"
        )
    now, was = surroundings.target_document(target), record.target
    unlike = [
        f"{name}: it was {getattr(was, name)}, now {getattr(now, name)}"
        for name in ("model", "deployment", "engine", "engine_version", "dtype", "profile")
        if getattr(was, name) != getattr(now, name)
    ]
    # A deployment that was restarted may listen on another port; a bare address is all that names a target.
    if was.deployment is None and was.url != now.url:
        unlike.append(f"url: it was {was.url}, now {now.url}")
    if record.manifest != the_work.manifest:
        unlike.append("texts: the corpus or the tokenizer changed since")
    if unlike:
        raise BadInput(f"run {record.id} measured something else", details=unlike, hint="start a new run")
    record.state, record.reason, record.finished_at, record.owner = "running", None, None, myself()
    record.environment.setdefault("resumed", []).append(surroundings.environment())
    return record
