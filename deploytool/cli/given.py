"""What several verbs share: durations, percentages, the endpoint, and how they are ended."""

from __future__ import annotations

import re
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from deploytool.cli.output import note
from deploytool.errors import BadInput, UnknownName

if TYPE_CHECKING:
    from deploytool.store import Store
    from deploytool.targets import Resolved

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")


def seconds(option: str, text: str) -> float:
    """A duration in seconds: "20s", "1m30s", "500ms", or a bare number of seconds."""
    plain = text.strip().lower().replace(" ", "")
    parts = _PART.findall(plain)
    if parts and "".join(number + unit for number, unit in parts) == plain:
        return sum(float(number) * _UNITS[unit] for number, unit in parts)
    if re.fullmatch(r"\d+(\.\d+)?", plain):
        return float(plain)
    raise BadInput(f"{option} {text!r} is no duration", hint=f"for example {option} 20s, 1m30s or 500ms")


def share(option: str, text: str) -> float:
    """A percentage as a share: "30%" or "30" is 0.3."""
    plain = text.strip().removesuffix("%").strip()
    if not re.fullmatch(r"\d+(\.\d+)?", plain):
        raise BadInput(f"{option} {text!r} is no percentage", hint=f"for example {option} 30%")
    return float(plain) / 100


def endpoint(target: str, store: Store, *, model: str | None, api_key_file: Path | None) -> Resolved:
    """TARGET with its true state; what `resolve` remarks goes to stderr."""
    from deploytool.targets import is_url, resolve

    if not is_url(target):
        from deploytool.deployment import refresh_one

        with suppress(UnknownName):  # resolve() says it with more hints
            refresh_one(target, store)
    resolved = resolve(target, store, api_key_file=api_key_file, model=model)
    for line in resolved.notes:
        note(f"note: {line}")
    return resolved


def terminate_as_interrupt() -> None:
    """`kill PID` and a closed terminal end a measurement as Ctrl-C does.

    The load is stopped, what was measured is kept.
    """

    def interrupt(number: int, frame: object) -> None:  # noqa: ARG001 - a signal handler's signature
        raise KeyboardInterrupt

    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) is signal.SIG_DFL:
            signal.signal(getattr(signal, name), interrupt)
