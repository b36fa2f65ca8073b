"""`smoke`: every check of an endpoint, as a table, one JSON document, and JUnit for CI."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploytool.cli.files import STDOUT, check_output, write_output
from deploytool.cli.output import emit, note, say, table
from deploytool.errors import BadInput, DeploytoolError, Unhealthy, UnknownName

if TYPE_CHECKING:
    from deploytool.probes import Check
    from deploytool.targets import Resolved

_MARKS = {True: "pass", False: "FAIL", None: "skip"}


def smoke(
    target: Annotated[str, typer.Argument(help="A deployment's name, or any base URL.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    junit: Annotated[
        Path | None, typer.Option("--junit", metavar="FILE", help="Write the checks as JUnit XML, too.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="CARD", help="The model card that a URL is checked against."),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option("--api-key-file", metavar="FILE", help="The file that holds the endpoint's API key."),
    ] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", min=0.1, help="For each request.")
    ] = 30.0,
    profiles_dir: Annotated[
        Path | None, typer.Option("--profiles-dir", metavar="DIR", help="Look for model cards here first.")
    ] = None,
) -> int:
    """Check that an endpoint's vectors and errors are right."""
    if junit == STDOUT:
        raise BadInput("stdout carries the table", hint="give --junit a file")
    check_output(junit, option="--junit")
    started = time.perf_counter()
    note("checking the endpoint ...")
    try:
        resolved = _resolved(target, model, api_key_file, profiles_dir, timeout)
    except Unhealthy as error:
        if junit is not None:
            _write_junit(junit, target, [_as_check(error)])
        raise
    for line in resolved.notes:
        note(f"note: {line}")
    checks = _checked(resolved, timeout, profiles_dir)
    if junit is not None:
        _write_junit(junit, target, checks)
    if as_json:
        emit(_document(resolved, checks, time.perf_counter() - started))
    else:
        _print(checks)
    return _verdict(resolved, checks)


def _resolved(
    target: str, model: str | None, api_key_file: Path | None, profiles: Path | None, timeout_s: float
) -> Resolved:
    from deploytool.catalog import Catalog
    from deploytool.store import Store
    from deploytool.targets import LISTING_TIMEOUT_S, is_url, resolve

    with Store() as store:
        if not is_url(target):
            from deploytool.deployment import refresh_one

            with suppress(UnknownName):  # resolve() says it with more hints
                refresh_one(target, store)
        return resolve(
            target,
            store,
            api_key_file=api_key_file,
            model=model,
            catalog=Catalog(profiles),
            timeout_s=min(timeout_s, LISTING_TIMEOUT_S),
        )


def _checked(resolved: Resolved, timeout_s: float, profiles: Path | None) -> list[Check]:
    from deploytool.golden import find
    from deploytool.probes import smoke as run

    live = sys.stderr.isatty()

    def watch(check: Check) -> None:
        if live:
            sys.stderr.write(f"\r\x1b[K{_MARKS[check.passed]} {check.name}")
            sys.stderr.flush()

    try:
        with resolved.client(timeout_s) as client:
            return run(
                client,
                resolved.card,
                ours=resolved.ours,
                key_enforced=resolved.api_key is not None,
                dtype=resolved.dtype,
                golden=find(resolved.card, profiles),
                max_length=resolved.max_length,
                watch=watch,
            )
    finally:
        if live:
            sys.stderr.write("\r\x1b[K")


def _document(resolved: Resolved, checks: Sequence[Check], seconds: float) -> dict[str, Any]:
    return {
        "target": resolved.target,
        "url": resolved.url,
        "model": resolved.model,
        "card": resolved.card.name if resolved.card else None,
        "passed": not any(check.passed is False for check in checks),
        "checks": [check.model_dump(mode="json") for check in checks],
        "seconds": round(seconds, 3),
    }


def _print(checks: Sequence[Check]) -> None:
    table(("check", "", "saw"), list(_rows(checks)))
    for check in checks:
        if check.passed is False:
            say()
            say(f"FAIL {check.name}")
            for line in _lines(check):
                say(f"  {line}")


def _rows(checks: Sequence[Check]) -> Iterator[tuple[str, str, str]]:
    """One row a check; a run of checks skipped for one reason is one row."""
    for (skipped, saw), group in groupby(checks, key=lambda check: (check.passed is None, check.saw)):
        members = list(group)
        if skipped and len(members) > 2:
            yield f"{len(members)} checks", _MARKS[None], f"{saw} ({members[0].name} to {members[-1].name})"
        else:
            yield from ((check.name, _MARKS[check.passed], saw) for check in members)


def _lines(check: Check) -> list[str]:
    lines = [f"saw: {check.saw}", f"expected: {check.expected}"]
    return [*lines, f"hint: {check.hint}"] if check.hint else lines


def _verdict(resolved: Resolved, checks: Sequence[Check]) -> int:
    """The exit code; the count goes to stderr, as the table or document has its say already."""
    failed = [check for check in checks if check.passed is False]
    passed = sum(check.passed is True for check in checks)
    skipped = len(checks) - passed - len(failed)
    note(f"{resolved.model}: {passed} passed, {len(failed)} failed, {skipped} skipped")
    if not failed:
        return 0
    names = ", ".join(check.name for check in failed)
    what = "does not answer" if failed[0].name == "reachable" else f"is not right: {names}"
    note(f"error: {resolved.target} {what}")
    if failed[0].hint:
        note(f"hint: {failed[0].hint}")
    return Unhealthy.exit_code


def _as_check(error: DeploytoolError) -> Check:
    from deploytool.probes import Check

    return Check(
        name="reachable", passed=False, saw=error.message, expected="a running server", hint=error.hint
    )


def _write_junit(path: Path, target: str, checks: Sequence[Check]) -> None:
    from deploytool.reports.junit import Case, render

    cases = [
        Case(check.name, check.passed, check.saw, _lines(check)[1:], check.seconds or 0.0) for check in checks
    ]
    write_output(path, render(f"smoke.{target}", cases), option="--junit")
