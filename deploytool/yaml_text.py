"""The text of a YAML file as plain data, with the line of every field and all that is wrong with the text.

PyYAML's safe loader: no tag of the file ever becomes an object.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

Place = tuple[str | int, ...]
Lines = dict[Place, int]

PLAIN = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
MAX_NODES = 50_000  # a file of aliases of aliases would otherwise grow without end


class Flaw(NamedTuple):
    """What is wrong with the text of a file, and where."""

    line: int | None
    place: Place
    message: str


def read_yaml(path: Path) -> tuple[Any, Lines, list[Flaw]]:
    """The plain data of a YAML file, the line of each field, and what is wrong with the text."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        return None, {}, [Flaw(None, (), f"cannot be read: {error.strerror or error}")]
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        return (
            None,
            {},
            [Flaw(line, (), f"expected UTF-8 text, got the byte 0x{raw[error.start]:02x}")],
        )
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        node = yaml.compose(text, Loader=loader)
    except yaml.MarkedYAMLError as error:
        return None, {}, [_syntax(error)]
    except yaml.YAMLError as error:
        return None, {}, [Flaw(None, (), f"expected YAML: {' '.join(str(error).split())}")]
    if node is None:
        return None, {}, [Flaw(None, (), "the file is empty")]
    walk = _Walk()
    return walk.value(node, ()), walk.lines, walk.flaws


class _Walk:
    """From YAML nodes to plain data; keeps lines, and collects duplicate keys and unreadable values."""

    def __init__(self) -> None:
        self.lines: Lines = {}
        self.flaws: list[Flaw] = []
        self._open: set[int] = set()
        self._seen = 0
        self._scalars = yaml.constructor.SafeConstructor()

    def value(self, node: yaml.Node, place: Place) -> Any:
        self.lines.setdefault(place, node.start_mark.line + 1)
        self._seen += 1
        if id(node) in self._open or self._seen > MAX_NODES:
            if self._seen <= MAX_NODES + 1:
                self._note(node, place, "refers to itself, or is far too large for a file of settings")
            return None
        if not isinstance(node, yaml.ScalarNode) and node.tag not in PLAIN:
            self._note(node, place, f"expected plain fields or a list, got the tag {node.tag}")
            return None
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, place)
            if isinstance(node, yaml.SequenceNode):
                return [self.value(child, (*place, index)) for index, child in enumerate(node.value)]
            return self._scalar(node, place)
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, place: Place) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for key_node, child in node.value:
            key = self._scalar(key_node, place) if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str):
                key = key_node.value if isinstance(key_node, yaml.ScalarNode) else "?"
                self._note(key_node, (*place, key), "expected a field name (quote it if it is meant as text)")
                continue
            if key in found:
                first = self.lines[(*place, key)]
                self._note(key_node, (*place, key), f"given twice; first in line {first}")
                continue
            self.lines[(*place, key)] = key_node.start_mark.line + 1
            found[key] = self.value(child, (*place, key))
        return found

    def _scalar(self, node: yaml.Node, place: Place) -> Hashable:
        try:
            value: Hashable = self._scalars.construct_object(node)
        except (ValueError, LookupError, yaml.YAMLError):
            self._note(node, place, f"expected a plain value, got {node.tag} {shown(node.value)}")
            return None
        return value

    def _note(self, node: yaml.Node, place: Place, message: str) -> None:
        self.flaws.append(Flaw(node.start_mark.line + 1, place, message))


def dotted(place: Place) -> str:
    """A place as people write it: `match.nvml_names[0]`."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _syntax(error: yaml.MarkedYAMLError) -> Flaw:
    mark = error.problem_mark or error.context_mark
    where = f", column {mark.column + 1}" if mark else ""
    context = f" ({error.context})" if error.context else ""
    return Flaw(mark.line + 1 if mark else None, (), f"not valid YAML{where}: {error.problem}{context}")


def shown(value: object) -> str:
    """A value in a message: short, as it stands in the file."""
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "fields"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
