"""Measurements of memory, kept beside the store: written after every real start and load, read by plans.

One line of JSON a measurement, appended in one write: two commands at once lose nothing, and a line that was
cut off (a full disk, a power cut) is skipped. The file carries its version in each line; lines of a newer one
are left alone. `export` and `read_export` share them as one document.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from deploytool.errors import InvalidFile, NotAvailable, Problem
from deploytool.hardware import HardwareProfile, match_profiles
from deploytool.memory.measured import Measured
from deploytool.paths import data_dir

SCHEMA = 1
KIND = "deploytool-calibrations"
FILE = "calibrations.jsonl"


class Kept(NamedTuple):
    """What is kept, oldest first, and how many lines could not be read."""

    entries: tuple[Measured, ...]
    unreadable: int = 0


def kept(folder: Path | None = None) -> Kept:
    """All measurements; none where there is no file. NotAvailable where it cannot be read."""
    path = (folder or data_dir()) / FILE
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return Kept(())
    except OSError as error:
        raise _unusable(path, error) from error
    found: list[Measured] = []
    unreadable = 0
    for line in lines:
        try:
            document = json.loads(line)
            if document.pop("schema_version") != SCHEMA:
                raise ValueError("another version")
            found.append(Measured.model_validate(document))
        except (ValueError, KeyError, AttributeError, TypeError):
            unreadable += bool(line.strip())
    return Kept(tuple(found), unreadable)


def add(entries: Iterable[Measured], folder: Path | None = None) -> int:
    """Append those that are not kept yet; returns how many. NotAvailable where it cannot be written."""
    path = (folder or data_dir()) / FILE
    known = set(map(_identity, kept(folder).entries))
    fresh = [entry for entry in dict.fromkeys(entries) if _identity(entry) not in known]
    if not fresh:
        return 0
    lines = [json.dumps({"schema_version": SCHEMA, **entry.model_dump(mode="json")}) for entry in fresh]
    try:
        begun = path.exists() and not path.read_bytes().endswith(b"\n")
        text = ("\n" if begun else "") + "\n".join(lines) + "\n"
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(handle, text.encode())
        finally:
            os.close(handle)
    except OSError as error:
        raise _unusable(path, error) from error
    return len(fresh)


def of_server(
    entries: Sequence[Measured],
    *,
    model: str,
    engine: str,
    versions: Sequence[str],
    hardware: HardwareProfile,
) -> tuple[Measured, ...]:
    """Those of a model with an engine of one of these versions, on a card of this profile."""
    return tuple(
        entry
        for entry in entries
        if (entry.model, entry.engine) == (model, engine)
        and any(_same_version(entry.engine_version, version) for version in versions)
        and match_profiles(entry.card, entry.card_mib, [hardware])
    )


def _same_version(measured: str | None, version: str) -> bool:
    """Whether a version is the wanted one, or a later one of a series that is named by its beginning."""
    return measured is not None and (measured == version or measured.startswith(f"{version}."))


def export(entries: Sequence[Measured]) -> str:
    """One document to hand on. It holds figures, names of models and cards; no path, no host, no key."""
    document = {
        "kind": KIND,
        "schema_version": SCHEMA,
        "calibrations": [entry.model_dump(mode="json") for entry in entries],
    }
    return json.dumps(document, indent=1) + "\n"


def read_export(path: Path) -> list[Measured]:
    """The measurements of an exported file; InvalidFile with everything that is wrong with it."""
    problems: list[Problem] = []

    def wrong(field: str, message: str) -> None:
        problems.append(Problem(path, None, field, message))

    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidFile([Problem(path, None, "", f"cannot be read: {error.strerror or error}")]) from error
    except ValueError as error:
        raise InvalidFile([Problem(path, None, "", f"is not JSON: {error}")], hint=_MAKE) from error
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise InvalidFile([Problem(path, None, "kind", f"expected {KIND!r}")], hint=_MAKE)
    version = document.get("schema_version")
    if version != SCHEMA:
        wrong("schema_version", f"expected {SCHEMA}, got {version!r}: it was written by another deploytool")
        raise InvalidFile(problems, hint="use the deploytool that wrote it, or export it again with this one")
    entries = document.get("calibrations")
    found: list[Measured] = []
    if not isinstance(entries, list):
        wrong("calibrations", "expected a list")
        entries = []
    for index, entry in enumerate(entries):
        found += _checked(entry, f"calibrations[{index}]", wrong)
    if problems:
        raise InvalidFile(problems, hint="nothing was imported; mend these, or leave them out")
    return found


_MAKE = "`deploytool calibrations export FILE` writes one"


def _checked(entry: Any, place: str, wrong: Any) -> list[Measured]:
    try:
        read = Measured.model_validate(entry)
    except ValidationError as error:
        for fault in error.errors(include_url=False):
            wrong(".".join([place, *map(str, fault["loc"])]), fault["msg"])
        return []
    if read.problem is not None:
        wrong(place, read.problem)
        return []
    return [read]


def _identity(entry: Measured) -> tuple[str, str, str]:
    return entry.deployment, entry.source, entry.at


def _unusable(path: Path, error: OSError) -> NotAvailable:
    return NotAvailable(
        f"{path}: {error.strerror or error}",
        hint="mend the file's rights, or set DEPLOYTOOL_HOME to a folder that you may write to",
    )
