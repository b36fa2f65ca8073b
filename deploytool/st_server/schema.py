"""The bytes of a request -> EmbeddingRequest; every mistake is a 400 that names the field.

Unknown fields are refused: one that is silently ignored ("input_type" of another server, say) gives vectors
other than the client believes it asked for.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deploytool.st_server.errors import RequestError, bad_request

OPENAI = ("input", "model", "encoding_format", "dimensions", "user")
EXTENSIONS = ("truncate", "input_type", "prompt_name", "normalize")
FIELDS = OPENAI + EXTENSIONS
INPUT_TYPES = ("query", "document")


@dataclass(frozen=True)
class EmbeddingRequest:
    """A checked request: either `texts` or `ids` is set. The last four are extensions."""

    model: str
    texts: list[str] | None
    ids: list[list[int]] | None
    as_base64: bool
    dimensions: int | None
    truncate: bool
    input_type: str | None = None
    prompt_name: str | None = None
    normalize: bool | None = None

    @property
    def count(self) -> int:
        return len(self.texts if self.texts is not None else self.ids or ())


def parse(body: bytes, *, max_texts: int) -> EmbeddingRequest:
    """Raises RequestError (400)."""
    document = object_of(body, FIELDS)
    model = text(document, "model")
    encoding = document.get("encoding_format")
    if encoding not in (None, "float", "base64"):
        raise bad_request("encoding_format must be 'float' or 'base64'", param="encoding_format")
    if document.get("user") is not None:
        text(document, "user")
    input_type, prompt_name = _prompt(document)
    texts, ids = _input(document, max_texts)
    if ids is not None and (input_type or prompt_name):
        raise bad_request(
            "token ids are taken as they are: a prompt can only go before texts",
            param="input_type" if input_type else "prompt_name",
            code="prompt_with_token_ids",
        )
    return EmbeddingRequest(
        model=model,
        texts=texts,
        ids=ids,
        as_base64=encoding == "base64",
        dimensions=positive(document, "dimensions"),
        truncate=bool(flag(document, "truncate")),
        input_type=input_type,
        prompt_name=prompt_name,
        normalize=flag(document, "normalize"),
    )


def object_of(body: bytes, fields: Sequence[str]) -> dict[str, Any]:
    """The JSON object of a body, with no other fields. Raises RequestError (400)."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "it cannot be decoded"
        raise bad_request(f"the body is not JSON: {reason}", code="invalid_json") from error
    if not isinstance(document, dict):
        raise bad_request("the body must be a JSON object", code="invalid_json")
    for name in document:
        if name not in fields:
            raise bad_request(
                f"unknown field {name[:80]!r}; known are {', '.join(fields)}",
                param=name[:80],
                code="unknown_field",
            )
    return document


def text(document: dict[str, Any], name: str) -> str:
    """A string that must be there. Raises RequestError (400)."""
    value = document.get(name)
    if value is None:
        raise bad_request(f"{name} is missing", param=name, code="missing_field")
    if not isinstance(value, str):
        raise bad_request(f"{name} must be a string", param=name, code="invalid_type")
    return value


def positive(document: dict[str, Any], name: str) -> int | None:
    """A whole number of at least 1, or None where it is left out. Raises RequestError (400)."""
    value = document.get(name)
    if value is None:
        return None
    if type(value) is not int or value < 1:
        raise bad_request(f"{name} must be a whole number of at least 1", param=name)
    return value


def flag(document: dict[str, Any], name: str) -> bool | None:
    """True, false, or None where it is left out. Raises RequestError (400)."""
    value = document.get(name)
    if value is None or isinstance(value, bool):
        return value
    raise bad_request(f"{name} must be true or false", param=name, code="invalid_type")


def _prompt(document: dict[str, Any]) -> tuple[str | None, str | None]:
    input_type, name = document.get("input_type"), document.get("prompt_name")
    if input_type is not None and input_type not in INPUT_TYPES:
        raise bad_request(
            f"input_type must be one of {', '.join(INPUT_TYPES)}",
            param="input_type",
            code="invalid_input_type",
        )
    if name is not None:
        text(document, "prompt_name")
        if input_type is not None:
            raise bad_request("give input_type or prompt_name, not both", param="prompt_name")
    return input_type, name


def _input(document: dict[str, Any], max_texts: int) -> tuple[list[str] | None, list[list[int]] | None]:
    value = document.get("input")
    if value is None:
        raise bad_request("input is missing", param="input", code="missing_field")
    if isinstance(value, str):
        return _texts([value], single=True), None
    if not isinstance(value, list):
        raise _wrong_type()
    if not value:
        raise bad_request("input is an empty list", param="input", code="empty_input")
    if type(value[0]) is int:
        return None, [_row(value, "input")]
    if len(value) > max_texts:
        raise bad_request(
            f"input has {len(value)} texts; this server takes {max_texts} per request",
            param="input",
            code="too_many_texts",
        )
    if isinstance(value[0], str):
        return _texts(value, single=False), None
    if isinstance(value[0], list):
        return None, [_row(row, f"input[{index}]") for index, row in enumerate(value)]
    raise _wrong_type()


def _texts(values: Sequence[Any], *, single: bool) -> list[str]:
    for index, text in enumerate(values):
        place = "input" if single else f"input[{index}]"
        if not isinstance(text, str):
            raise bad_request(f"{place} must be a string like the others", param="input", code="invalid_type")
        if not text or text.isspace():
            raise bad_request(
                f"{place} is {'blank' if text else 'an empty string'}", param="input", code="empty_input"
            )
    return list(values)


def _row(row: Any, place: str) -> list[int]:
    if not isinstance(row, list) or any(type(token) is not int for token in row):
        raise bad_request(f"{place} must be a list of token ids", param="input", code="invalid_type")
    if not row:
        raise bad_request(f"{place} is an empty list", param="input", code="empty_input")
    return row


def _wrong_type() -> RequestError:
    return bad_request(
        "input must be a string, a list of strings, a list of token ids or a list of such lists",
        param="input",
        code="invalid_type",
    )
