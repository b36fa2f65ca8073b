"""What each of several workers gets: processors or a card, its part of the queue, and its place by descriptors."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from deploytool.st_server.config import Config

PLACE = "DEPLOYTOOL_ST_WORKER"  # set by the parent alone
VISIBLE = "CUDA_VISIBLE_DEVICES"
CARDS = Path("/proc/driver/nvidia/gpus")
NODES = Path("/sys/devices/system/node")


@dataclass(frozen=True)
class Place:
    """Of a worker: its number, its socket to the parent, the pages of the board. `cpus` empty: all of them."""

    index: int
    control: int
    board: tuple[int, ...]
    cpus: tuple[int, ...]
    starts: int


def place(environ: Mapping[str, str] = os.environ) -> Place | None:
    """This process's place among workers; None where it is the only one."""
    stated = environ.get(PLACE)
    if stated is None:
        return None
    found = json.loads(stated)
    return Place(
        found["index"], found["control"], tuple(found["board"]), tuple(found["cpus"]), found["starts"]
    )


def on_cards(config: Config) -> bool:
    return config.device.startswith("cuda") or (config.device == "auto" and CARDS.exists())


def cpus(config: Config, index: int) -> tuple[int, ...]:
    """Neighbouring processors, those of a socket together; empty on cards, where the kernel may place them."""
    if on_cards(config) or not hasattr(os, "sched_getaffinity"):
        return ()
    usable = os.sched_getaffinity(0)
    ordered = [cpu for node in _nodes() for cpu in node if cpu in usable]
    ordered += sorted(usable.difference(ordered))
    if len(ordered) < config.workers:
        return ()
    size, more = divmod(len(ordered), config.workers)
    first = index * size + min(index, more)
    return tuple(ordered[first : first + size + (index < more)])


def flags(config: Config, key: int | None) -> list[str]:
    """What a worker is told after the parent's own flags: the last one counts."""
    share = ["--workers", "1", "--max-queue", str(-(-config.max_queue // config.workers))]
    share += ["--threads", str(max(1, config.threads // config.workers))]
    return [*share, "--api-key-file", f"/dev/fd/{key}"] if key is not None else share


def environment(config: Config, place: Place) -> dict[str, str]:
    """The parent's, with the place and, where there are several cards, the worker's card."""
    environ = {**os.environ, PLACE: json.dumps(asdict(place))}
    cards = _cards()
    if config.device in ("cuda", "auto") and cards:
        environ[VISIBLE] = cards[place.index % len(cards)]
    return environ


@contextmanager
def key_file(key: str | None) -> Iterator[int | None]:
    """A nameless file with the API key, for a child to read: not in its arguments, not in its environment."""
    if key is None:
        yield None
        return
    with tempfile.TemporaryFile() as file:
        file.write(key.encode())
        file.seek(0)
        yield file.fileno()


def _cards() -> list[str]:
    stated = os.environ.get(VISIBLE)
    if stated is not None:
        return [card.strip() for card in stated.split(",") if card.strip()]
    return [str(number) for number, _ in enumerate(CARDS.iterdir())] if CARDS.is_dir() else []


def _nodes() -> list[list[int]]:
    """The processors of each NUMA node, as Linux lists them: 0-15,32-47."""
    nodes = []
    for file in sorted(NODES.glob("node[0-9]*/cpulist")):
        try:
            ranges = [
                part.partition("-") for part in file.read_text(encoding="ascii").strip().split(",") if part
            ]
            nodes.append([cpu for low, _, high in ranges for cpu in range(int(low), int(high or low) + 1)])
        except (OSError, ValueError):
            return []
    return nodes
