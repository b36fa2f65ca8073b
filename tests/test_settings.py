"""Settings: types, precedence with its origins, and every problem at once."""

from __future__ import annotations

import pytest

from deploytool.errors import BadInput
from deploytool.hardware import Scalar
from deploytool.settings import (
    Origin,
    Resolver,
    Setting,
    environment_settings,
    parse_assignments,
)

TABLE = (
    Setting(name="port", type="int", minimum=1, maximum=65535, words=("auto",), default=8080, help=""),
    Setting(name="dtype", type="str", choices=("float16", "float32"), help=""),
    Setting(name="share", type="float", minimum=0.1, maximum=0.9, help=""),
    Setting(name="cache", type="bool", default=True, help=""),
    Setting(name="max_queue", type="int", minimum=1, help=""),
)
BY_NAME = {setting.name: setting for setting in TABLE}
ORDER: tuple[Origin, ...] = ("flag", "environment", "deployment file", "hardware profile", "model card")


def resolver(**layers: dict[str, Scalar]) -> Resolver:
    return Resolver(TABLE, [(origin, layers.get(origin.replace(" ", "_"), {})) for origin in ORDER])


@pytest.mark.parametrize(
    ("name", "given", "parsed"),
    [
        ("port", "80", 80),
        ("port", "AUTO", "auto"),
        ("port", 80, 80),
        ("share", "0.5", 0.5),
        ("share", ".5", 0.5),
        ("cache", "off", False),
        ("cache", "Yes", True),
        ("cache", False, False),
        ("dtype", "float16", "float16"),
        ("max_queue", " 7 ", 7),
    ],
)
def test_values_are_read_by_type(name: str, given: Scalar, parsed: Scalar) -> None:
    assert BY_NAME[name].parse(given) == parsed
    assert type(BY_NAME[name].parse(given)) is type(parsed)


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("port", "0", "a whole number from 1 to 65535, or auto"),
        ("port", "70000", "from 1 to 65535"),
        ("port", "8.5", "a whole number"),
        ("port", True, "a whole number"),
        ("share", "nan", "a number from 0.1 to 0.9"),
        ("share", "inf", "a number"),
        ("cache", "maybe", "true or false"),
        ("dtype", "fp16", "one of float16, float32"),
        ("dtype", "", "one of"),
        ("max_queue", "0", "of at least 1"),
        ("max_queue", "x", "of at least 1"),
    ],
)
def test_a_bad_value_says_what_was_expected(name: str, given: Scalar, expected: str) -> None:
    with pytest.raises(ValueError, match="expected") as caught:
        BY_NAME[name].parse(given)
    assert expected in str(caught.value)


@pytest.mark.parametrize("first", range(len(ORDER)))
def test_the_first_layer_that_has_it_wins(first: int) -> None:
    layers: dict[str, dict[str, Scalar]] = {
        origin.replace(" ", "_"): {"port": 1000 + index}
        for index, origin in enumerate(ORDER)
        if index >= first
    }
    values = resolver(**layers)
    assert values.resolve("port", 5, "computed") == 1000 + first
    assert values.values["port"].origin == ORDER[first]


def test_computed_beats_the_default_and_says_why() -> None:
    values = resolver()
    assert values.resolve("port", 5, "the fifth") == 5
    assert (values.values["port"].origin, values.values["port"].why) == ("computed", "the fifth")
    assert values.resolve("cache") is True
    assert values.values["cache"].origin == "default"
    assert values.resolve("max_queue") is None


def test_every_problem_is_reported_at_once() -> None:
    values = resolver(
        flag={"prot": "1", "dtype": "fp16", "pool": "3"},
        environment={"port": "x", "unknown": "1"},
        hardware_profile={"share": 2, "of_another_engine": 1},
    )
    with pytest.raises(BadInput) as caught:
        values.check("mine", {"pool": "yours"})
    assert caught.value.exit_code == 2
    assert caught.value.details == (
        "prot: mine has no such setting, did you mean port?",
        "dtype (flag): expected one of float16, float32, got 'fp16'",
        "pool: mine has no such setting, yours has",
        "DEPLOYTOOL_PORT: expected a whole number from 1 to 65535, or auto, got 'x'",
        "share (hardware profile): expected a number from 0.1 to 0.9, got '2'",
    )
    assert caught.value.hint is not None and "max_queue" in caught.value.hint


def test_assignments_are_split_and_their_problems_listed() -> None:
    assert parse_assignments(["max-queue=7", "a=b=c"]) == {"max_queue": "7", "a": "b=c"}
    with pytest.raises(BadInput) as caught:
        parse_assignments(["port", "=3", "a=1", "a=2", "b=1", "b=1"])
    assert len(caught.value.details) == 3


def test_variables_become_settings() -> None:
    found = environment_settings({"DEPLOYTOOL_MAX_QUEUE": "7", "PORT": "1", "DEPLOYTOOL_DTYPE": ""})
    assert found == {"max_queue": "7"}
