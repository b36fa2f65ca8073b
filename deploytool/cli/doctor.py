"""`doctor`: what this machine has and lacks, each with its mend; exit code 0 where the profile can run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploytool.cli.output import emit, note, say

if TYPE_CHECKING:
    from deploytool.doctor import Report

_MARKS = {"pass": "pass", "warn": "warn", "fail": "FAIL"}


def doctor(
    profile: Annotated[
        str | None, typer.Option("--profile", metavar="PROFILE", help="The hardware profile that is to run.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="MODEL", help="A model that is to run on it, too.")
    ] = None,
    online: Annotated[
        bool, typer.Option("--online", help="Try the model hub; otherwise no host is contacted.")
    ] = False,
    profiles_dir: Annotated[
        Path | None,
        typer.Option("--profiles-dir", metavar="DIR", help="Look for profiles and cards here first."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> int:
    """Look this machine over: what is here, what is missing, and how to mend it.

    Exit code 0: the asked profile (and model) can run; otherwise that of what stands in the way, as `up`
    would end: 2, 3 (does not fit), 4 (incompatible), 8 (card, driver, engine or files missing).
    """
    from deploytool.doctor import examine

    note("looking ...")
    report = examine(profile, model, profiles_dir=profiles_dir, online=online)
    if json:
        emit(report.model_dump(mode="json"))
    else:
        _print(report)
    counts = {verdict: sum(one.verdict == verdict for one in report.findings) for verdict in _MARKS}
    what = " and ".join(filter(None, (report.profile, report.model))) or "this machine"
    note(f"{what}: {counts['pass']} passed, {counts['warn']} warnings, {counts['fail']} failed")
    return report.exit_code


def _print(report: Report) -> None:
    width = max(len(f"{one.area} {one.name}") for one in report.findings)
    for one in report.findings:
        head = one.name if one.name.startswith(one.area) else f"{one.area}: {one.name}"
        say(f"{_MARKS[one.verdict]}  {head:<{width + 1}}  {one.saw}")
        if one.mend:
            say(f"      {'':<{width + 1}}  -> {one.mend}")
