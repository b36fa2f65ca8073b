"""What the deploy tests share: plans of the stand-in server, and `up` as a program that can be killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ports import unused_port

from deploytool.errors import DeploytoolError
from deploytool.identity import identify
from deploytool.launch import LaunchSpec, Readiness, SecretUse
from deploytool.records import Deployment
from deploytool.runtimes import marks
from deploytool.store import Store, now

if TYPE_CHECKING:
    from deploytool.plans import Prepared

SERVER = Path(__file__).with_name("deployed_server.py")
ROOT = Path(__file__).resolve().parent.parent.parent
MODEL, WIDTH = "stand-in", 256  # as faulty_server serves it
FOREVER = (sys.executable, "-c", "import time; time.sleep(600)")


def spec(
    *habits: str, port: int | None = None, secret: SecretUse | None = None, probe_timeout_s: float = 20
) -> LaunchSpec:
    """The launch of the stand-in server, as an engine would describe it. Port 0: chosen at the start."""
    chosen = unused_port() if port is None else port
    return LaunchSpec(
        engine="sentence-transformers",
        argv=(sys.executable, str(SERVER), "--port", str(chosen), *habits),
        model=MODEL,
        model_path="nowhere",
        host="127.0.0.1",
        port=chosen,
        secret=secret,
        readiness=Readiness(path="/ready", probe_timeout_s=probe_timeout_s, start_timeout_s=120),
    )


def prepared(launch: LaunchSpec) -> Prepared:
    """A plan of that launch, with a card that says what the stand-in's vectors are."""
    from deploytool.hardware import HardwareProfile
    from deploytool.memory import MemoryEstimate
    from deploytool.models import ModelCard
    from deploytool.planning import Plan
    from deploytool.plans import Prepared

    memory = MemoryEstimate(
        weights_mib=1, activations_mib=1, context_mib=1, lower_mib=2, expected_mib=3, upper_mib=4
    )
    plan = Plan(
        model=MODEL,
        profile="cpu",
        engine=launch.engine,
        dtype="float32",
        tensor_parallel=1,
        values=(),
        memory=memory,
        launch=launch,
    )
    card = ModelCard(name=MODEL, title="A stand-in", kind="embedding", dimensions=WIDTH, licence="none")
    hardware = HardwareProfile(name="cpu", title="Processors", kind="cpu", sources=("none",))
    return Prepared(card=card, hardware=hardware, plan=plan, files=None)


def record(name: str, launch: LaunchSpec) -> Deployment:
    """A deployment that is about to start, for the tests of store and runtime alone."""
    return Deployment(
        id=f"id-{name}",
        name=name,
        engine=launch.engine,
        runtime="process",
        profile="cpu",
        model=MODEL,
        state="starting",
        created_at=now(),
        launch=launch,
    )


def until(condition: Callable[[], object], seconds: float = 120.0) -> None:
    """Wait for something that another process does; a generous bound, so that a hang ends."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.005)


def ours(home: Path) -> list[int]:
    """Every living process that carries the mark of the state folder below `home`: all that may be left."""
    return [who.pid for found in marks.marked(home / "data").values() for who in found]


def kill_server(deployment: Deployment) -> None:
    """SIGKILL to the server itself, and wait until it is gone."""
    assert deployment.process is not None
    os.kill(deployment.process.pid, signal.SIGKILL)
    until(lambda: identify(deployment.process.pid) is None)  # type: ignore[union-attr]


def bring_up(store: Store, *habits: str, port: int | None = None, **options: object) -> Deployment:
    from deploytool.deployment import UpOptions, up

    wanted = UpOptions.model_validate({"name": "one", "smoke": False, **options})
    return up(prepared(spec(*habits, port=port)), wanted, store, lambda _: None)


def up_program(
    name: str, *habits: str, port: int = 0, env: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    """One `up` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, __file__, name, str(port or unused_port()), *habits],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def folder_of(store: Store) -> Path | None:
    return next(iter((store.folder / "deployments").glob("*")), None)


def reserved(store: Store) -> bool:
    return bool(store.deployments())


def folder_made(store: Store) -> bool:
    return folder_of(store) is not None


def identity_written(store: Store) -> bool:
    folder = folder_of(store)
    return folder is not None and (folder / "server.json").exists()


def identity_recorded(store: Store) -> bool:
    return any(one.process for one in store.deployments())


def log_written(store: Store) -> bool:
    folder = folder_of(store)
    return folder is not None and (folder / "server.log").exists()


def said(store: Store, text: str) -> bool:
    from deploytool.deployment import log_lines

    return log_written(store) and text in list(log_lines("one", store, last=5, follow=False))


def serving(store: Store) -> bool:
    return said(store, "serving")


def finished(home: Path) -> None:
    """At the end of a test: what it left is taken down; nothing may be there after that."""
    from deploytool.deployment import down

    with Store() as opened, contextlib.suppress(DeploytoolError):
        down([], opened, lambda _: None, everything=True)
    left = ours(home)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


def main() -> int:
    """`deploying.py NAME PORT HABIT...`: one `up` in a process of its own, to be killed or interrupted."""
    from deploytool.deployment import UpOptions, given_key, up

    name, port, *habits = sys.argv[1:]
    options = UpOptions(name=name, smoke=False)
    secret = SecretUse(kind="env", name="STAND_IN_KEY") if "--key-variable" in habits else None
    with Store() as store:
        try:
            deployment = up(
                prepared(spec(*habits, port=int(port), secret=secret)),
                options,
                store,
                lambda line: print(line, file=sys.stderr, flush=True),
                key=given_key(None, os.environ),
            )
        except DeploytoolError as error:
            print("\n".join([error.message, *error.details, f"hint: {error.hint}"]), file=sys.stderr)
            return error.exit_code
        print(deployment.model_dump_json())
        return 0


if __name__ == "__main__":
    sys.exit(main())
