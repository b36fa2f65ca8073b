"""sglang-router: one endpoint in front of several replicas. Not an engine: it computes nothing, it passes on.

Flags are those of 0.3.2. It starts without workers: they are registered once they are proven, with the model's
name (or /v1/models would say "unknown") and with their key.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys

from deploytool.engines.faults import COMMON, Fault, classify
from deploytool.glance import ROUTER
from deploytool.launch import LaunchSpec, Readiness, SecretUse
from deploytool.planning import Cause

KEY_VARIABLE = "DEPLOYTOOL_API_KEY"
READY_PATH = "/readiness"  # 200 once a worker is healthy; asks no worker
LIVE_PATH = "/liveness"
JOIN_S = 120.0  # for the router itself and its workers' first health checks
FLAGS = {
    # Round robin: power_of_two sends most to a worker that died, which has no load; cache_aware is for chats.
    "--policy": "round_robin",
    "--log-level": "warn",
    "--worker-startup-check-interval": "1",
    "--worker-startup-timeout-secs": "60",
    "--health-check-interval-secs": "2",
    "--health-failure-threshold": "2",
    "--health-success-threshold": "1",
    # A request that fails is sent to another worker: embeddings have no side effects. Few tries, because a
    # request that kills its worker is sent on, too.
    "--retry-max-retries": "3",
    "--retry-max-backoff-ms": "1000",
    "--shutdown-grace-period-secs": "5",
}
# The router's circuit breaker counts 4xx answers: five bad requests of one client close a worker to all others
# (seen with 0.3.2). Who is dead is found by the health checks, and until then by the retries.
SWITCHES = ("--disable-circuit-breaker",)
FAULTS = (
    Fault(
        r"sglang-router is not installed",
        "missing_package",
        "the router is not installed",
        "pip install 'deploytool[router]'",
    ),
    Fault(
        r"Address already in use",
        "port",
        "the port is in use",
        "--port auto, or another --port",
    ),
    *COMMON,
)


class SGLangRouter:
    """See engines.Program."""

    install = "pip install 'deploytool[router]'"

    def stage(self, line: str) -> str | None:  # noqa: ARG002 - it is up within a second and says nothing
        return None

    def diagnose(self, log_tail: str) -> Cause | None:
        return classify(log_tail, FAULTS)


def installed() -> str | None:
    """The version of sglang-router beside this tool, None where it is not installed."""
    if importlib.util.find_spec("sglang_router") is None:
        return None
    return importlib.metadata.version("sglang-router")


def launch(replica: LaunchSpec, host: str, port: int) -> LaunchSpec:
    """The router in front of servers like `replica`. `port` 0: chosen at the start."""
    flags = FLAGS | {
        "--health-check-endpoint": replica.readiness.path,
        "--health-check-timeout-secs": str(max(1, round(replica.readiness.probe_timeout_s))),
    }
    words = [*SWITCHES, *(word for flag in flags.items() for word in flag)]
    return LaunchSpec(
        engine=ROUTER,
        engine_version=installed(),
        argv=(sys.executable, "-m", "deploytool.router", "--host", host, "--port", str(port), *words),
        secret=SecretUse(kind="env", name=KEY_VARIABLE) if replica.secret else None,
        model=replica.model,
        model_path=replica.model_path,
        host=host,
        port=port,
        readiness=Readiness(
            path=READY_PATH, probe_timeout_s=5, start_timeout_s=replica.readiness.start_timeout_s + JOIN_S
        ),
    )
