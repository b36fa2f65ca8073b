"""`gate`: smoke, a short load and a comparison with a baseline, with one exit code for CI."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploytool.cli.compare import FAIL_ON_HELP, show, verdict
from deploytool.cli.files import STDOUT, check_output, write_output
from deploytool.cli.given import endpoint, terminate_as_interrupt
from deploytool.cli.output import emit, note, say
from deploytool.errors import BadInput, DeploytoolError, Unhealthy

if TYPE_CHECKING:
    from deploytool.gate import Gate
    from deploytool.reports.junit import Case
    from deploytool.targets import Resolved


def gate(
    target: Annotated[str, typer.Argument(help="A deployment's name, or any base URL.")],
    baseline: Annotated[
        str, typer.Option("--baseline", metavar="RUN", help="The run to compare with: its id or latest.")
    ],
    fail_on: Annotated[
        str | None,
        typer.Option(
            "--fail-on",
            metavar="CONDITIONS",
            help=f"{FAIL_ON_HELP} [default: qps<-10%,p99>+20%,errors>+0.5%,vram>+5%]",
        ),
    ] = None,
    noise: Annotated[
        float | None,
        typer.Option(
            "--noise",
            metavar="PERCENT",
            min=0,
            max=100,
            help="How far two runs of the same may be apart, where no repeats tell it. [default: 3]",
        ),
    ] = None,
    junit: Annotated[
        Path | None,
        typer.Option("--junit", metavar="FILE", help="Write checks and conditions as JUnit XML, too."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="CARD", help="The model card that a URL is checked against."),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option("--api-key-file", metavar="FILE", help="The file that holds the endpoint's API key."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> int:
    """Check an endpoint before production: smoke, short load, comparison.

    The load is the baseline's own request. Exit code 6 where a check of the vectors fails, 1 where a
    condition is not held, 0 where all is well.
    """
    from deploytool.comparison.compare import BETWEEN_RUNS_PERCENT
    from deploytool.gate import default_conditions, pass_through
    from deploytool.store import Store
    from deploytool.thresholds import parse_changes

    if junit == STDOUT:
        raise BadInput("stdout carries the result", hint="give --junit a file")
    check_output(junit, option="--junit")
    thresholds = parse_changes(fail_on) if fail_on is not None else None
    terminate_as_interrupt()
    started = time.monotonic()
    try:
        with Store() as store:
            before = store.run(baseline)
            resolved = endpoint(target, store, model=model, api_key_file=api_key_file)
            conditions = thresholds or parse_changes(default_conditions(before))
            seen = pass_through(
                resolved,
                before,
                conditions,
                store,
                _progress(before),
                between_percent=BETWEEN_RUNS_PERCENT if noise is None else noise,
            )
    except DeploytoolError as error:
        if junit is not None and not isinstance(error, BadInput):
            _write_junit(junit, target, [_as_case(error)])
        raise
    if junit is not None:
        _write_junit(junit, target, _cases(seen))
    if as_json:
        emit(_document(resolved, seen, time.monotonic() - started))
    else:
        _print(seen)
    return _verdict(seen)


def _progress(before: Any) -> Any:
    from deploytool.cli.load_view import PlainView
    from deploytool.gate import request_of

    note("checking the endpoint ...")
    return PlainView(request_of(before))


def _document(resolved: Resolved, seen: Gate, seconds: float) -> dict[str, Any]:
    comparison = seen.comparison
    return {
        "passed": seen.passed,
        "target": resolved.target,
        "url": resolved.url,
        "model": resolved.model,
        "checks": [check.model_dump(mode="json") for check in seen.checks],
        "run": seen.run.id if seen.run is not None else None,
        "comparison": comparison.model_dump(mode="json") if comparison is not None else None,
        "seconds": round(seconds, 1),
    }


def _print(seen: Gate) -> None:
    failed = seen.failed_checks
    passed = sum(check.passed is True for check in seen.checks)
    skipped = sum(check.passed is None for check in seen.checks)
    say(f"smoke: {passed} passed, {len(failed)} failed, {skipped} skipped")
    for check in failed:
        say(f"  FAIL {check.name}: saw {check.saw}; expected {check.expected}")
        if check.hint:
            say(f"    hint: {check.hint}")
    if seen.comparison is None:
        say("load: not run, as the vectors are not right")
        return
    say()
    show(seen.comparison)


def _cases(seen: Gate) -> list[Case]:
    from deploytool.reports.comparison import cases
    from deploytool.reports.junit import Case

    smoke = [
        Case(
            f"smoke: {check.name}",
            check.passed,
            check.saw,
            [f"expected: {check.expected}", *([f"hint: {check.hint}"] if check.hint else [])],
            check.seconds or 0.0,
        )
        for check in seen.checks
    ]
    if seen.comparison is None:
        return [*smoke, Case("load", None, "not run, as a check of the vectors failed")]
    return [*smoke, *cases(seen.comparison)]


def _as_case(error: DeploytoolError) -> Case:
    from deploytool.reports.junit import Case

    return Case("gate", False, error.message, [*error.details, *([error.hint] if error.hint else [])])


def _write_junit(path: Path, target: str, cases: list[Case]) -> None:
    from deploytool.reports.junit import render

    write_output(path, render(f"gate.{target}", cases), option="--junit")


def _verdict(seen: Gate) -> int:
    if seen.failed_checks:
        names = ", ".join(check.name for check in seen.failed_checks)
        note(f"error: the gate is closed: the endpoint is not right: {names}")
        return Unhealthy.exit_code
    if seen.comparison is None:
        return Unhealthy.exit_code
    code = verdict([seen.comparison])
    note("the gate is open" if code == 0 else "error: the gate is closed")
    return code
