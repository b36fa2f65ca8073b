"""The options of `load` as values: lists, durations, and what a scenario says below them."""

from __future__ import annotations

from typing import Any

from deploytool.cli.given import seconds
from deploytool.errors import BadInput


def with_scenario(given: dict[str, Any], scenario: str | None) -> dict[str, Any]:
    """What was given, over what the scenario says; an open and a closed loop are not mixed."""
    if "rate" in given and "concurrency" in given:
        raise BadInput(
            "--rate is an open loop, --concurrency a closed one",
            hint="give one of them; --in-flight bounds an open loop",
        )
    if scenario is None:
        return given
    from deploytool.benchmark import scenario_values

    values = scenario_values(scenario)
    if "concurrency" in given:
        values = {name: value for name, value in values.items() if name not in ("rate", "profile")}
    return values | given


def numbers(option: str, text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise BadInput(
            f"{option} {text!r} is no list of whole numbers", hint=f"for example {option} 1,8,32"
        ) from error


def rates(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise BadInput(f"--rate {text!r} is no list of numbers", hint="for example --rate 50,100") from error


def seconds_or_none(option: str, text: str | None) -> float | None:
    return None if text is None else seconds(option, text)
