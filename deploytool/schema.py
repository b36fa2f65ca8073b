"""The base of every typed document: strict on input, immutable, with units in the field names."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Document(BaseModel):
    """A validated, immutable document. Unknown fields are an error, so that a typing slip is seen."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), defer_build=True)


class Record(BaseModel):
    """A stored document that this tool writes: mutable while it is made, newer fields are kept on reading."""

    model_config = ConfigDict(
        extra="allow", protected_namespaces=(), validate_assignment=True, defer_build=True
    )
