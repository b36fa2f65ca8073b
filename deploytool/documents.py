"""YAML files to typed documents: every problem at once, each with file, line, field and what was expected.

`load` is the one door: the text with its lines (`yaml_text`), then pydantic, then the rules that span several
fields.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError

from deploytool.errors import InvalidFile, Problem, nearest
from deploytool.yaml_text import Lines, Place, dotted, read_yaml, shown

T = TypeVar("T", bound=BaseModel)


class Fault(NamedTuple):
    """What a rule found: the field (a path from the top of the file) and what was expected there."""

    field: Place
    message: str


Rule = Callable[[Any], Iterable[Fault]]


def load(path: Path, model: type[T], rules: Sequence[Rule] = (), *, plain: Sequence[Rule] = ()) -> T:
    """The file as a `model`.

    Each rule takes the document, where a field that could not be read is None; a rule of `plain` takes the
    file's plain data and is heard even where fields are wrong. Raises InvalidFile with all problems: of the
    text, of single fields, and of the rules.
    """
    data, lines, flaws = read_yaml(path)
    problems = [Problem(path, flaw.line, dotted(flaw.place), flaw.message) for flaw in flaws]
    if not isinstance(data, Mapping):
        if not problems:
            problems = [Problem(path, 1, "", f"expected fields (`name: value`), got {shown(data)}")]
        raise InvalidFile(problems)
    document: T | None = None
    wrong: set[Place] = {_scope(model, flaw.place) for flaw in flaws if flaw.place}
    try:
        document = model.model_validate(data)
    except ValidationError as error:
        for fault in _faults(model, error):
            wrong.add(_scope(model, fault.field))
            if all(flaw.place != fault.field for flaw in flaws):  # that one has been told
                problems.append(_problem(path, lines, fault))
    told = {problem.field for problem in problems}
    faults = (fault for rule in plain for fault in rule(data))
    problems += [_problem(path, lines, fault) for fault in faults if dotted(fault.field) not in told]
    readable = document if document is not None else _partial(model, data, wrong)
    for rule in rules:
        problems += [
            _problem(path, lines, fault) for fault in rule(readable) if not _within(wrong, fault.field)
        ]
    if problems or document is None:
        raise InvalidFile(sorted(problems, key=lambda problem: problem.line or 0))
    return document


def _problem(path: Path, lines: Lines, fault: Fault) -> Problem:
    """A fault with its line: that of the field, or of the nearest field around it."""
    place = fault.field
    while place and place not in lines:
        place = place[:-1]
    return Problem(path, lines.get(place), dotted(fault.field), fault.message)


def _faults(model: type[BaseModel], error: ValidationError) -> Iterator[Fault]:
    for entry in error.errors(include_url=False):
        place = tuple(part for part in entry["loc"] if part != "[key]")
        yield Fault(place, _message(model, entry["type"], place, entry))


def _message(model: type[BaseModel], kind: str, place: Place, entry: Any) -> str:
    """What was expected, in words; falls back on pydantic's own sentence."""
    got, context = shown(entry.get("input")), entry.get("ctx", {})
    if kind == "extra_forbidden":
        known = _fields_at(model, place[:-1])
        near = nearest(str(place[-1]), known)
        guess = f"did you mean {' or '.join(near)}?" if near else f"known here: {', '.join(known)}"
        return f"unknown field; {guess}"
    if kind == "missing":
        return "this field is required"
    if kind == "literal_error":
        return f"expected {context['expected']}, got {got}"
    if kind == "string_type":
        given = entry.get("input")
        quoted = f' (write "{given}" in quotes)' if isinstance(given, int | float) else ""
        return f"expected text, got {got}{quoted}"
    if kind == "string_pattern_mismatch":
        return f"expected text like {context['pattern']}, got {got}"
    expected = {
        "int_parsing": "a whole number",
        "int_type": "a whole number",
        "int_from_float": "a whole number",
        "float_parsing": "a number",
        "float_type": "a number",
        "bool_parsing": "true or false",
        "bool_type": "true or false",
        "model_type": "fields (`name: value`)",
        "dict_type": "fields (`name: value`)",
        "tuple_type": "a list",
        "list_type": "a list",
        "date_type": "a date (YYYY-MM-DD)",
        "date_from_datetime_parsing": "a date (YYYY-MM-DD)",
        "greater_than": f"a number greater than {context.get('gt')}",
        "greater_than_equal": f"a number of at least {context.get('ge')}",
        "too_short": f"at least {context.get('min_length')} entry",
    }.get(kind)
    return f"expected {expected}, got {got}" if expected else f"{entry['msg']}, got {got}"


def _fields_at(model: type[BaseModel], place: Place) -> list[str]:
    """The field names known at a place of a document."""
    current: Any = model
    for part in place:
        if isinstance(part, str) and part in current.model_fields:
            current = _document_type(current.model_fields[part].annotation)
        if current is None:
            return []
    return list(current.model_fields)


def _document_type(annotation: Any) -> Any:
    """The BaseModel within an annotation such as `X | None` or `dict[str, X]`, None where there is none."""
    if isinstance(annotation, type) and not get_args(annotation) and issubclass(annotation, BaseModel):
        return annotation
    for argument in get_args(annotation):
        found = _document_type(argument)
        if found is not None:
            return found
    return None


def _scope(model: type[BaseModel], place: Place) -> Place:
    """The field that a place spoils: one of the document, or one of an entry of its list of documents."""
    return place[: 3 if place and _listed(model, place[0]) is not None else 1]


def _within(wrong: set[Place], field: Place) -> bool:
    """Whether what a rule says of a field may only follow from a field that could not be read."""
    return any(field[: len(place)] == place for place in wrong)


def _listed(model: type[BaseModel], name: str | int) -> type[BaseModel] | None:
    """The documents that a field lists (`tuple[X, ...]`), None for any other field."""
    info = model.model_fields.get(str(name))
    if info is None or get_origin(info.annotation) is not tuple:
        return None
    found = get_args(info.annotation)[0]
    return found if isinstance(found, type) and issubclass(found, BaseModel) else None


def _partial(model: type[T], data: Mapping[str, Any], wrong: set[Place]) -> T:
    """The document with what could be read of it, None for the rest: enough for rules to go on."""
    values: dict[str, Any] = {}
    for name, info in model.model_fields.items():
        listed = _listed(model, name)
        if listed is not None and isinstance(data.get(name), list):
            values[name] = tuple(
                _entry(listed, entry, (name, at), wrong) for at, entry in enumerate(data[name])
            )
        elif name in data and (name,) not in wrong:
            annotation: Any = info.annotation
            values[name] = TypeAdapter(annotation).validate_python(data[name])
        elif info.is_required():
            values[name] = None
    return model.model_construct(**values)


def _entry(model: type[BaseModel], data: Any, place: Place, wrong: set[Place]) -> BaseModel | None:
    """An entry of a list as `_partial` gives it; None where it is no document at all."""
    if not isinstance(data, Mapping):
        return None
    inside = {spoilt[2:] for spoilt in wrong if spoilt[:2] == place and len(spoilt) > 2}
    return _partial(model, data, inside)
