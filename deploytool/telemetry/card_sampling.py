"""Readings of the cards, moment by moment: what they hold, and how much of it is the server's."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from deploytool.telemetry.nvml import Answer, Session, Unavailable, connect
from deploytool.telemetry.processes import ProcessTree
from deploytool.telemetry.readings import FIGURES, Reading

# How often a driver that did not start is asked again: each time it may look for its kernel module.
RECONNECT_S = 1.0
NOBODY = "no process of the server was given to look at"


class Cards:
    """Reads the cards, or says for all of them why it cannot."""

    def __init__(
        self, devices: Sequence[int] | None, no_devices_reason: str, tree: ProcessTree | None
    ) -> None:
        self._tree = tree
        self._devices = devices
        self._reason = no_devices_reason
        self._asks = devices is None or len(devices) > 0
        self._session: Session | None = None
        self._asked_at = -math.inf
        self._recognised = False

    def read(self) -> list[Reading]:
        session = self._connected()
        if session is None:
            return [_nothing(device, self._reason) for device in self._devices or (None,)]
        pids = self._tree.pids() if self._tree else frozenset()
        return [self._card(session, device, pids) for device in self._devices or ()]

    def _connected(self) -> Session | None:
        if not self._asks or self._session is not None:
            return self._session
        if time.monotonic() - self._asked_at < RECONNECT_S:
            return None
        self._asked_at = time.monotonic()
        session = connect()
        if isinstance(session, Unavailable):
            self._reason = session.reason
            return None
        if self._devices is None:
            count = session.count()
            if not count.value:
                self._reason = count.reason or "the NVIDIA driver works but shows no card"
                return None
            self._devices = range(count.value)
        self._session = session
        return session

    def _card(self, session: Session, device: int, pids: frozenset[int]) -> Reading:
        memory = session.memory(device)
        answers: tuple[Answer[float], ...] = (
            Answer(memory.value.used_mib if memory.value else None, memory.reason),
            self._of_server(session, device, pids),
            session.utilisation_percent(device),
            session.power_w(device),
        )
        used, process, utilisation, power = (answer.value for answer in answers)
        reasons = {
            name: answer.reason for name, answer in zip(FIGURES, answers, strict=True) if answer.reason
        }
        return Reading(device, (used, process, utilisation, power), reasons)

    def _of_server(self, session: Session, device: int, pids: frozenset[int]) -> Answer[float]:
        """What the server's own processes hold on the card."""
        if self._tree is None:
            return Answer(None, NOBODY)
        held = session.process_memory_mib(device)
        if held.value is None:
            return Answer(None, held.reason)
        if not pids:
            return Answer(None, "the server's process is gone")
        own = [mib for pid, mib in held.value.items() if pid in pids]
        self._recognised = self._recognised or bool(own)
        if not own and not self._recognised:
            # Not zero: seen from another pid namespace, the same processes have other numbers.
            return Answer(None, "NVML lists no process of the server (it knows them by their host pids)")
        known = [mib for mib in own if mib is not None]
        if len(known) < len(own):
            return Answer(None, "the driver keeps no memory count by process (WDDM, WSL2)")
        return Answer(sum(known))


def _nothing(device: int | None, reason: str) -> Reading:
    return Reading(device, (None, None, None, None), dict.fromkeys(FIGURES, reason))
