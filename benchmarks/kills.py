"""SIGKILL at random points, of the tool and of the server, and what is left: `make bench-kills`.

    kills.py [N] [--seed SEED]

N points each for the tool (shared by up, load, scale and down) and for the server (any process of an endpoint with
two replicas, under load). After each: every command that reads the state must read it, every finished load run must
still be there, and after `down --all` no process may be left, also none of the load generator's. The servers are
stand-ins; the tool, its state, the router and the load generator are the real ones. Exit code 1 where anything
failed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

MARK = "KILLS_BENCHMARK"
NAME = "emb"
GONE_WITHIN_S = 20.0
MOST_S = 180.0
SHOWN = 3  # of the finished runs, shown after each point; all of them at the end
TOOL = (sys.executable, "-m", "deploytool")
ACTIONS: dict[str, tuple[str, ...]] = {
    "up": (sys.executable, __file__, "--up"),
    "load": (*TOOL, "load", NAME, "--batch", "1", "--concurrency", "2", "--duration", "1s", "--warmup", "0s"),
    "scale": (*TOOL, "scale", NAME, "3"),
    "down": (*TOOL, "down", NAME),
}


class Point(NamedTuple):
    """One kill: at what, how long after its start, whether it was still at work, and what was wrong then."""

    action: str
    at_s: float
    at_work: bool
    orphans: list[str]
    lost: list[str]
    unreadable: list[str]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("points", nargs="?", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--up", action="store_true", help="only bring the endpoint up (this is what is killed)"
    )
    given = parser.parse_args()
    if given.up:
        return bring_up()
    with tempfile.TemporaryDirectory() as home:
        os.environ |= {
            "DEPLOYTOOL_HOME": home,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
            MARK: f"{os.getpid()}-{time.time_ns()}",
        }
        try:
            points: list[Point] = []
            with contextlib.suppress(KeyboardInterrupt):  # what was seen until then is shown
                all_points(given.points, random.Random(given.seed), points)  # noqa: S311 - a repeatable choice
            lost = unshown(finished_runs())
            print(f"runs that are kept and cannot be shown: {', '.join(lost) or 'none'}", file=sys.stderr)
            return show(points) or int(bool(lost))
        finally:
            run((*TOOL, "down", "--all"))


def bring_up() -> int:
    """An endpoint with two stand-ins; a program of its own, so that it can be killed."""
    from stand_ins.deploying import prepared, spec

    from deploytool.deployment import UpOptions, up
    from deploytool.store import Store

    with Store() as store:
        up(
            prepared(spec("--child", port=0)),
            UpOptions(name=NAME, replicas=2, smoke=False),
            store,
            lambda _: None,
        )
    return 0


def all_points(count: int, chance: random.Random, points: list[Point]) -> None:
    """Adds each to `points` as it is done."""
    took = durations()
    first = chance.randrange(len(ACTIONS))
    for number in range(count):
        action = list(ACTIONS)[(first + number) % len(ACTIONS)]
        points.append(kill_tool(action, chance.uniform(0, took[action])))
        tell(points[-1], number + 1, 2 * count)
    for number in range(count):
        points.append(kill_server(chance.uniform(0, took["load"]), chance))
        tell(points[-1], count + number + 1, 2 * count)


def durations() -> dict[str, float]:
    """Seconds of each action when nobody kills it."""
    took = {}
    for action, command in ACTIONS.items():
        began = time.monotonic()
        done = run(command)
        took[action] = time.monotonic() - began
        if done.returncode:
            raise SystemExit(f"{action} does not even work undisturbed:\n{done.stdout}{done.stderr}")
    return took


def kill_tool(action: str, at_s: float) -> Point:
    if action != "up":
        make_ready()
    before = finished_runs()
    process = subprocess.Popen(ACTIONS[action], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    at_work = killed_after(process, at_s, process.kill)
    return judged(action, at_s, at_work, before)


def kill_server(at_s: float, chance: random.Random) -> Point:
    make_ready()
    before = finished_runs()
    process = subprocess.Popen(ACTIONS["load"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    victims = [row["pid"] for row in json.loads(run((*TOOL, "ps", "--json")).stdout) if row["pid"]]

    def kill() -> None:
        os.kill(chance.choice(victims), 9)

    at_work = killed_after(process, at_s, kill)
    process.wait(MOST_S)
    return judged("server", at_s, at_work, before)


def killed_after(process: subprocess.Popen[bytes], at_s: float, kill: Callable[[], None]) -> bool:
    """Wait so long, kill; False where the process had ended before."""
    try:
        process.wait(at_s)
    except subprocess.TimeoutExpired:
        kill()
        if kill == process.kill:
            process.wait()
        return True
    return False


def judged(action: str, at_s: float, at_work: bool, before: set[str]) -> Point:
    unreadable = [
        told for command in (("ps", "--json"), ("runs", "list", "--json")) if (told := unread(command))
    ]
    names = [row["name"] for row in json.loads(run((*TOOL, "ps", "--json")).stdout or "[]")]
    unreadable += [told for name in names if (told := unread(("status", name, "--json")))]
    lost = sorted(before - finished_runs())
    lost += unshown(sorted(before)[-SHOWN:])
    down = run((*TOOL, "down", "--all"))
    if down.returncode:
        unreadable.append(f"down --all: {down.stderr.strip()[-200:]}")
    return Point(action, at_s, at_work, left_behind(), lost, unreadable)


def unshown(run_ids: Iterable[str]) -> list[str]:
    return [run_id for run_id in run_ids if unread(("runs", "show", run_id, "--json"))]


def unread(command: Sequence[str]) -> str | None:
    """What a command that reads said where it failed; None where it read all."""
    done = run((*TOOL, *command))
    return None if done.returncode == 0 else f"{' '.join(command)}: {done.stderr.strip()[-200:]}"


def make_ready() -> None:
    done = run(ACTIONS["up"])
    if done.returncode:
        raise SystemExit(f"up failed after a clean down --all:\n{done.stderr}")


def finished_runs() -> set[str]:
    runs = json.loads(run((*TOOL, "runs", "list", "--json")).stdout or "[]")
    return {one["id"] for one in runs if one["state"] == "finished"}


def left_behind() -> list[str]:
    """Processes of this benchmark that are still there after a while; they are ended and named."""
    deadline = time.monotonic() + GONE_WITHIN_S
    while (left := ours()) and time.monotonic() < deadline:
        time.sleep(0.1)
    told = [f"{process.pid} {' '.join(process.cmdline())[:100]}" for process in left]
    for process in left:
        process.kill()
    return told


def ours() -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            marked = process.environ().get(MARK) == os.environ[MARK]
        except psutil.Error:
            continue
        if marked and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=MOST_S, check=False, cwd=ROOT)


def tell(point: Point, number: int, of: int) -> None:
    wrong = [*point.orphans, *point.lost, *point.unreadable]
    told = f": {'; '.join(wrong)}" if wrong else ""
    print(f"[{number}/{of}] {point.action} after {point.at_s:.2f} s{told}", file=sys.stderr, flush=True)


def show(points: Sequence[Point]) -> int:
    print(f"{'killed':<8} {'points':>6} {'at work':>8} {'orphans':>8} {'lost runs':>10} {'unreadable':>11}")
    for action in [*ACTIONS, "server"]:
        rows = [point for point in points if point.action == action]
        print(
            f"{action:<8} {len(rows):>6} {sum(row.at_work for row in rows):>8}"
            f" {sum(len(row.orphans) for row in rows):>8} {sum(len(row.lost) for row in rows):>10}"
            f" {sum(len(row.unreadable) for row in rows):>11}"
        )
    return int(any(point.orphans or point.lost or point.unreadable for point in points))


if __name__ == "__main__":
    sys.exit(main())
