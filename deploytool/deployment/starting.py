"""One start of a reserved deployment: launch, wait while its log tells the stages, prove, record.

`progress` takes whole lines; `tick`, where there is a terminal, one line that is rewritten again and again.
Cleaning up after a failure is the caller's (bring_up).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import closing

from deploytool.calibrations.learning import from_start, keep
from deploytool.deployment.failures import start_failed
from deploytool.deployment.keys import Key
from deploytool.deployment.measured import cards_before, memory_now, warmed_mib
from deploytool.deployment.proof import proven, smoked
from deploytool.deployment.routing import join, take_in
from deploytool.engines.sglang_router import LIVE_PATH
from deploytool.errors import StartFailed
from deploytool.launch import LaunchSpec
from deploytool.probes import alive
from deploytool.records import Deployment
from deploytool.runtimes import LogReader, Runtime, runtime
from deploytool.store import Store, now

POLL_S = 0.1
HEARTBEAT_S = 10.0
CANNOT_EXECUTE = 127

Say = Callable[[str], None]


class Start:
    """`run` returns the ready deployment; StartFailed, Taken or Unhealthy otherwise, with the server left."""

    def __init__(
        self, deployment: Deployment, store: Store, key: Key | None, progress: Say, tick: Say | None
    ) -> None:
        from deploytool.engines import program

        self.deployment = deployment
        self.store = store
        self.progress = progress
        self.tick = tick
        self.key = key
        self.program = program(deployment.launch.engine)
        self.runtime: Runtime = runtime(deployment.runtime)
        self.folder = store.folder_of(deployment.id)
        self.began = time.monotonic()
        self.stage = "starting"
        self.said_at = self.began

    def run(self, *, wait_s: float | None, smoke: bool) -> Deployment:
        spec = self.deployment.launch
        before = cards_before(self.deployment)
        self.say(f"starting {self.deployment.name} ({spec.engine}) at {spec.url}")
        self.launch()
        wait_s = spec.readiness.start_timeout_s if wait_s is None else wait_s
        if self.deployment.is_endpoint:
            self.take_in_replicas(wait_s)
        self.wait(wait_s)
        self.say("answers; proving its vectors")
        environ = self.environ()
        proven(self.deployment, environ)
        ready_s = round(time.monotonic() - self.began, 3)
        if smoke:
            smoked(self.deployment, environ, self.say)
        memory = {**before, **memory_now(self.deployment), "warmed_mib": warmed_mib(self.deployment)}
        self.still_there()
        self.runtime.keep_up(self.deployment, self.folder)
        deployment = self.record(ready_s, memory)
        keep(from_start(deployment))
        if deployment.group is not None:
            join(deployment, self.store, environ, self.say)
        return deployment

    def take_in_replicas(self, wait_s: float) -> None:
        """Once the router lives, tell it of every replica that is ready; later ones tell it themselves."""
        deadline = self.began + wait_s
        url = self.deployment.launch.url
        while not alive(url, LIVE_PATH).ok and time.monotonic() < deadline:
            self.still_there()
            time.sleep(POLL_S)
        self.still_there()
        take_in(self.deployment, self.store, self.environ())

    def launch(self) -> None:
        self.store.deployment_folder(self.deployment.id)
        running = self.runtime.start(self.deployment, self.folder, self.key.value if self.key else None)

        def started(record: Deployment) -> None:
            record.process, record.supervisor = running.process, running.supervisor
            record.container = running.container

        self.change(started)

    def wait(self, wait_s: float) -> None:
        """Until the readiness path answers; StartFailed where the server dies or the time is over."""
        spec = self.deployment.launch
        deadline = self.began + wait_s
        with closing(self.runtime.open_log(self.deployment, self.folder, None)) as reader:
            self.await_answer(spec, reader, wait_s, deadline)

    def await_answer(self, spec: LaunchSpec, reader: LogReader, wait_s: float, deadline: float) -> None:
        while True:
            self.follow(reader)
            self.still_there()
            remaining = deadline - time.monotonic()
            timeout_s = max(0.1, min(spec.readiness.probe_timeout_s, remaining))
            if alive(spec.url, spec.readiness.path, timeout_s).ok:
                self.follow(reader)
                return
            if time.monotonic() >= deadline:
                what = f"was not ready within {wait_s:g} s (stage: {self.stage})"
                raise start_failed(self.deployment, self.store, what, "allow more with --wait SECONDS")
            time.sleep(POLL_S)

    def follow(self, reader: LogReader) -> None:
        """Tell new stages as the log announces them, and now and then that it still works."""
        for line in reader.read():
            stage = self.program.stage(line)
            if stage is not None and stage != self.stage:
                self.stage = stage
                self.say(stage)
        if self.tick is not None:
            self.tick(f"{self.elapsed()}  {self.stage} ...")
        elif time.monotonic() - self.said_at >= HEARTBEAT_S:
            self.say(f"still {self.stage}")

    def still_there(self) -> None:
        """StartFailed where the server is gone, or another command took the deployment down."""
        seen = self.runtime.observe(self.deployment, self.folder)
        if seen.alive:
            return
        self.change(_nothing)
        what = f"died at the stage '{self.stage}': {seen.reason}"
        hint = "paste the command to see it fail in a shell"
        if seen.exit_status == CANNOT_EXECUTE:
            hint = f"is the engine installed? {self.program.install}"
        raise start_failed(self.deployment, self.store, what, hint)

    def record(self, ready_s: float, memory: dict[str, object]) -> Deployment:
        def ready(record: Deployment) -> None:
            record.state, record.reason, record.owner = "ready", None, None
            record.ready_at, record.ready_s, record.proven = now(), ready_s, True
            record.memory = {**record.memory, **memory}

        self.change(ready)
        return self.deployment

    def change(self, change: Callable[[Deployment], None]) -> None:
        """Change the record; StartFailed where `down` or `stop` of another terminal was first."""
        changed = self.store.change(self.deployment.id, change)
        if changed is None or changed.wanted == "stopped":
            raise StartFailed(
                f"{self.deployment.name} was taken down by another command while it started",
                hint="start it again, if that was not meant",
            )
        self.deployment = changed

    def environ(self) -> dict[str, str]:
        """This process's environment, with the key as it was read at the beginning."""
        if self.key is None or not self.key.source.startswith("env "):
            return dict(os.environ)
        return {**os.environ, self.key.source.removeprefix("env "): self.key.value}

    def elapsed(self) -> str:
        return f"{time.monotonic() - self.began:7.1f} s"

    def say(self, text: str) -> None:
        self.said_at = time.monotonic()
        self.progress(f"{self.elapsed()}  {text}")


def _nothing(record: Deployment) -> None:
    """No change: only to learn whether the record is still there."""
