"""Ctrl-C, SIGTERM and a closed terminal, as one exception, so that one clean-up serves all three."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """What the next signal does: the first raises KeyboardInterrupt; while cleaning up, none raises."""

    def __init__(self) -> None:
        self.raised = False
        self._held = False
        self._waiting: int | None = None
        self._hurry: Callable[[], None] | None = None

    def hold(self) -> None:
        """Let a signal wait for `release`, so that nothing is taken without its clean-up being in place."""
        self._held = True

    def release(self) -> None:
        """The end of `hold`: KeyboardInterrupt where a signal came meanwhile."""
        self._held = False
        if self._waiting is not None:
            self.handle(self._waiting, None)

    def cleaning(self, hurry: Callable[[], None]) -> None:
        """From here on a signal calls `hurry` (which ends things at once) and lets the clean-up go on."""
        self._hurry = hurry

    def handle(self, number: int, _frame: FrameType | None) -> None:
        if self._hurry is not None:
            self._hurry()
        elif self._held:
            self._waiting = number
        elif not self.raised:
            self.raised = True
            raise KeyboardInterrupt(signal.Signals(number).name)


@contextmanager
def interruptible() -> Iterator[Interrupts]:
    """Within, SIGTERM and SIGHUP act as Ctrl-C does; an ignored signal stays so (nohup)."""
    interrupts = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return
    before = {}
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            before[number] = signal.signal(number, interrupts.handle)
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
