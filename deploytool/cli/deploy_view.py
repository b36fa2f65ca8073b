"""How deployments are shown: progress on stderr while one starts, a table, one in full."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from deploytool.cli.output import emit, note, say, table

if TYPE_CHECKING:
    from deploytool.records import Deployment

COLUMNS = ("NAME", "STATE", "MODEL", "PROFILE", "ENGINE", "URL", "PID", "UP")


class Narrator:
    """Progress on stderr: whole lines, and on a terminal one more that is rewritten while it waits."""

    def __init__(self) -> None:
        self.live = sys.stderr.isatty()

    def line(self, text: str) -> None:
        self.clear()
        note(text)

    @property
    def tick(self) -> Callable[[str], None] | None:
        return self._rewrite if self.live else None

    def clear(self) -> None:
        if self.live:
            sys.stderr.write("\r\x1b[K")

    def _rewrite(self, text: str) -> None:
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


def show_ready(deployment: Deployment) -> None:
    """What a person does next."""
    launch, name = deployment.launch, deployment.name
    reranker = deployment.card.get("kind") == "reranker"
    proof = "scores" if reranker else "embeddings"
    say(f"{name} is ready at {launch.url}/v1 (after {deployment.ready_s:.1f} s), proven by real {proof}")
    say()
    key = ' -H "Authorization: Bearer $DEPLOYTOOL_API_KEY"' if deployment.key_source else ""
    path, body = "embeddings", f'{{"model": "{launch.model}", "input": "hello"}}'
    if reranker:
        path, body = "rerank", f'{{"model": "{launch.model}", "query": "hi", "documents": ["hello", "no"]}}'
    say(f"  curl {launch.url}/v1/{path}{key} -H 'Content-Type: application/json' -d '{body}'")
    say(f"  deploytool smoke {name}" if reranker else f"  deploytool load {name}")
    say(f"  deploytool logs -f {name}")
    say(f"  deploytool down {name}")


def list_deployments(*, as_json: bool) -> None:
    """What `ps` prints."""
    from deploytool.deployment import listed, strays
    from deploytool.store import Store

    with Store() as store:
        deployments = listed(store)
        if as_json:
            emit([deployment.public() for deployment in deployments])
        elif deployments:
            show_table(deployments)
        else:
            say("nothing is deployed: `deploytool up MODEL --profile PROFILE` brings a model up")
        for _, stray in strays(store):
            note(f"without a record: {stray.what}, of deployment {stray.id}; `deploytool down --all` ends it")


def show_table(deployments: Sequence[Deployment]) -> None:
    """One line each; why something is not ready stands below."""
    table(COLUMNS, [_row(deployment) for deployment in deployments], right=("PID", "UP"))
    reasons = [(one.name, one.reason) for one in deployments if one.reason]
    if reasons:
        say()
    for name, reason in reasons:
        say(f"{name}: {reason}")


def _row(one: Deployment) -> tuple[object, ...]:
    pid = one.container or (one.process.pid if one.process and one.state not in ("stopped", "died") else None)
    return one.name, one.state, one.model, one.profile, one.engine, one.launch.url, pid, uptime(one)


def uptime_s(one: Deployment) -> float | None:
    """Seconds since it was ready, by the wall clock; 0 where that was set back since. None: it is not ready."""
    if one.ready_at is None or one.state not in ("ready", "unhealthy"):
        return None
    return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(one.ready_at)).total_seconds())


def uptime(one: Deployment) -> str | None:
    seconds = uptime_s(one)
    if seconds is None:
        return None
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"


def show_status(document: dict[str, Any]) -> None:
    """One deployment in full, for people."""
    on_cards = bool(document["gpus"])
    for name, value in document.items():
        if name in ("memory", "warnings", "replicas") or (name == "gpus" and not on_cards):
            continue
        say(f"{name:<12} {'-' if value is None else value}")
    memory = document["memory"]
    vram = f"; VRAM {_mib(memory.get('vram_process_mib'))}" if on_cards else ", no card"
    say(f"{'memory':<12} RSS {_mib(memory.get('rss_mib'))}{vram}")
    if on_cards and memory.get("vram_reason"):
        say(f"{'':<12} (VRAM: {memory['vram_reason']})")
    estimate = memory.get("estimate") or {}
    if estimate.get("expected_mib") is not None:
        say(f"{'':<12} (planned: {_mib(estimate['expected_mib'])}, up to {_mib(estimate['upper_mib'])})")
    for warning in document["warnings"]:
        say(f"{'warning':<12} {warning}")
    if document.get("replicas"):
        say()
        columns = (
            "REPLICA",
            "STATE",
            "URL",
            "PID",
            "GPUS",
            "RSS MiB",
            "GETS REQUESTS",
            "IN FLIGHT",
            "RESTARTS",
        )
        table(columns, [_replica(row) for row in document["replicas"]], right=columns[3:])


def _replica(row: dict[str, Any]) -> tuple[object, ...]:
    cards = ",".join(map(str, row["gpus"])) or None
    routed = "yes" if row["gets_requests"] else "no"
    rss = None if row["rss_mib"] is None else f"{row['rss_mib']:,.0f}"
    return (
        row["name"], row["state"], row["url"], row["pid"], cards, rss, routed, row["in_flight"], row["restarts"],
    )  # fmt: skip


def _mib(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.0f} MiB"
