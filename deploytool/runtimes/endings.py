"""How a server ended, in words, from what its supervisor wrote down."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any


def how_it_ended(ending: Mapping[str, Any] | None, *, rebooted: bool = False) -> str:
    """One line: what ended the server, when, and what is known about why.

    `ending` is `exit.json` of supervisor.py; None where nobody could write one.
    """
    if ending is None:
        if rebooted:
            return "gone: the machine was restarted since"
        return "gone without a word: its supervisor was killed, which takes the server with it"
    if ending.get("error"):
        return f"its program could not be started: {ending['error']}"
    status = int(ending["status"])
    when = datetime.fromtimestamp(ending["ended_at"], UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    if status >= 0:
        return f"exited with {status} at {when}"
    why = _memory(ending) if -status == signal.SIGKILL else ""
    return f"killed by {signal_name(-status)} at {when}{why}"


def signal_name(number: int) -> str:
    """SIGKILL for 9; the bare number for one without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _memory(ending: Mapping[str, Any]) -> str:
    """What the kernel's counters say about memory: a killed process itself cannot tell."""
    kills: Mapping[str, int] = ending.get("oom_kills") or {}
    places = [place for place, count in kills.items() if count > 0]
    peak = ending.get("peak_rss_mib")
    used = f" (its peak was {peak:,.0f} MiB)" if peak else ""
    if places:
        return (
            f": the kernel ran out of memory in {' and '.join(places)} and killed a process meanwhile{used}"
        )
    if kills:
        return ": by someone; the kernel counted no out-of-memory kill meanwhile"
    return f": by someone, or by the kernel for want of memory{used}"
