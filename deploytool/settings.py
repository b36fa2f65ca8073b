"""Settings of a launch: what a user may set, what it may be, and where each value came from.

Precedence, first found wins: flag > `DEPLOYTOOL_*` variable > deployment file > hardware profile > model card
> what the planner computes > the engine's default. A `Setting` describes one value; a `Resolver` walks the
layers and keeps the origin of each, so that a plan can show it. All problems are reported at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from pydantic import Field

from deploytool.errors import BadInput, nearest
from deploytool.hardware import Scalar
from deploytool.schema import Document

Origin = Literal[
    "flag", "environment", "deployment file", "hardware profile", "model card", "default", "computed"
]
VARIABLE_PREFIX = "DEPLOYTOOL_"
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


class Setting(Document):
    """A setting that an engine knows: what `--set NAME=VALUE` accepts."""

    name: str
    type: Literal["str", "int", "float", "bool"]
    help: str
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    words: tuple[str, ...] = Field(default=(), description="words accepted beside a number, e.g. auto")
    default: Scalar | None = None

    def parse(self, value: Scalar) -> Scalar:
        """`value` in this setting's type; ValueError says what was expected."""
        text = str(value).strip()
        if text.lower() in self.words:
            return text.lower()
        if self.choices and text not in self.choices:
            raise ValueError(f"expected one of {', '.join(self.choices)}, got {text!r}")
        if self.type == "bool":
            return _boolean(value, text)
        if self.type == "str":
            if not text:
                raise ValueError("expected some text, got nothing")
            return text
        return self._number(value, text)

    def _number(self, value: Scalar, text: str) -> Scalar:
        expected = self.expected()
        try:
            number: int | float = int(text) if self.type == "int" else float(text)
        except ValueError:
            raise ValueError(f"expected {expected}, got {text!r}") from None
        below = self.minimum is not None and number < self.minimum
        above = self.maximum is not None and number > self.maximum
        if isinstance(value, bool) or below or above or math.isnan(number):
            raise ValueError(f"expected {expected}, got {text!r}")
        return number

    def expected(self) -> str:
        """What the setting accepts, for people: "a whole number of at least 1, or auto"."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.type == "bool":
            return "true or false"
        if self.type == "str":
            return "text"
        words = ["a whole number" if self.type == "int" else "a number"]
        if self.minimum is not None and self.maximum is not None:
            words.append(f"from {self.minimum:g} to {self.maximum:g}")
        elif self.minimum is not None:
            words.append(f"of at least {self.minimum:g}")
        return " ".join(words) + (", or " + " or ".join(self.words) if self.words else "")


def _boolean(value: Scalar, text: str) -> bool:
    if isinstance(value, bool):
        return value
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise ValueError(f"expected true or false, got {text!r}")


class Value(Document):
    """One resolved setting and where it came from; `why` explains a computed one."""

    name: str
    value: Scalar | None
    origin: Origin
    why: str = ""


def parse_assignments(pairs: Iterable[str]) -> dict[str, Scalar]:
    """`--set name=value` pairs as a dictionary of texts; BadInput lists every pair that is not one."""
    found: dict[str, Scalar] = {}
    problems = []
    for pair in pairs:
        name, equals, value = pair.partition("=")
        plain = name.strip().replace("-", "_")
        if not equals or not plain:
            problems.append(f"--set {pair}: expected name=value")
        elif plain in found and found[plain] != value:
            problems.append(f"--set {plain} is given twice: {found[plain]!r} and {value!r}")
        else:
            found[plain] = value
    if problems:
        raise BadInput("these settings cannot be read", details=problems)
    return found


def environment_settings(environ: Mapping[str, str]) -> dict[str, Scalar]:
    """The `DEPLOYTOOL_*` variables as setting names and texts; an engine picks those that it knows."""
    return {
        name.removeprefix(VARIABLE_PREFIX).lower(): value
        for name, value in environ.items()
        if name.startswith(VARIABLE_PREFIX) and value
    }


class Resolver:
    """Resolves settings one by one through the layers; `values` keeps each in the order it was resolved."""

    def __init__(
        self, settings: Sequence[Setting], layers: Sequence[tuple[Origin, Mapping[str, Scalar]]]
    ) -> None:
        self._settings = {setting.name: setting for setting in settings}
        self._layers = layers
        self.values: dict[str, Value] = {}

    def given(self, name: str) -> Value | None:
        """The setting as some layer gives it, parsed; None where no layer does. BadInput for a bad value."""
        setting = self._settings[name]
        for origin, layer in self._layers:
            if name in layer:
                return Value(name=name, value=self._parsed(setting, layer[name], origin), origin=origin)
        return None

    def resolve(self, name: str, computed: Scalar | None = None, why: str = "") -> Scalar | None:
        """The value of `name`: given by a layer, else `computed`, else the engine's default."""
        found = self.given(name)
        if found is None and computed is not None:
            found = Value(name=name, value=computed, origin="computed", why=why)
        if found is None:
            found = Value(name=name, value=self._settings[name].default, origin="default", why=why)
        self.values[name] = found
        return found.value

    def fix(self, name: str, value: Scalar | None, why: str) -> None:
        """Replace a resolved value by one that the planner had to choose."""
        self.values[name] = Value(name=name, value=value, origin="computed", why=why)

    def check(self, engine: str, elsewhere: Mapping[str, str]) -> None:
        """BadInput with every problem of every layer: unknown flags, values of the wrong kind.

        Only flags and the deployment file may not hold unknown names: a variable, a profile or a card may
        speak to another engine. `elsewhere` says which other engine has a setting of that name.
        """
        problems = []
        for origin, layer in self._layers:
            for name, value in layer.items():
                setting = self._settings.get(name)
                if setting is None:
                    if origin in ("flag", "deployment file"):
                        problems.append(self._unknown(name, engine, elsewhere))
                    continue
                try:
                    setting.parse(value)
                except ValueError as error:
                    problems.append(f"{_label(name, origin)}: {error}")
        if problems:
            raise BadInput(
                f"{len(problems)} setting{'s' if len(problems) != 1 else ''} cannot be used with {engine}",
                hint=f"settings of {engine}: {', '.join(sorted(self._settings))}",
                details=problems,
            )

    def _unknown(self, name: str, engine: str, elsewhere: Mapping[str, str]) -> str:
        if name in elsewhere:
            return f"{name}: {engine} has no such setting, {elsewhere[name]} has"
        near = nearest(name, self._settings)
        guess = f", did you mean {' or '.join(near)}?" if near else ""
        return f"{name}: {engine} has no such setting{guess}"

    def _parsed(self, setting: Setting, value: Scalar, origin: Origin) -> Scalar:
        try:
            return setting.parse(value)
        except ValueError as error:
            raise BadInput(f"{_label(setting.name, origin)}: {error}") from error


def _label(name: str, origin: Origin) -> str:
    return f"{VARIABLE_PREFIX}{name.upper()}" if origin == "environment" else f"{name} ({origin})"
