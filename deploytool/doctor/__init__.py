"""Looks a machine over: what is here, what is missing, whether a profile (and a model on it) can run.

Nothing is started, changed or contacted (the hub only where asked to). Every finding has its mend.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from deploytool.catalog import Catalog
from deploytool.doctor import cards, machine, models, programs
from deploytool.doctor.finding import Finding, Report
from deploytool.errors import NotAvailable
from deploytool.hardware import HardwareProfile
from deploytool.plans import resolve_alias

__all__ = ["Finding", "Report", "examine"]


def examine(
    profile: str | None,
    model: str | None,
    *,
    profiles_dir: Path | None = None,
    online: bool = False,
    environ: Mapping[str, str] = os.environ,
) -> Report:
    """All findings. A failure is what keeps the asked profile (or anything at all) from running.

    Raises UnknownName for a profile that is none, InvalidFile for one with problems.
    """
    catalog = Catalog(profiles_dir, ask_hub=online)
    hardware, alias = _hardware(profile, catalog)
    findings = [
        *alias,
        *cards.examine(hardware, catalog.hardware_profiles(), environ),
        *programs.examine_engines(hardware),
        *programs.examine_docker(hardware, environ),
        *machine.examine(environ),
        *models.examine_hub(environ, online=online),
        *models.examine_cached(catalog),
    ]
    if model is not None:
        findings += models.examine_model(model, hardware, catalog)
    return Report.of(profile, model, findings)


def _hardware(profile: str | None, catalog: Catalog) -> tuple[HardwareProfile | None, list[Finding]]:
    """The profile; an alias as the card that is here, or a finding that none of its cards is."""
    if profile is None:
        return None, []
    asked = catalog.hardware(profile)
    try:
        found = resolve_alias(asked, catalog)
    except NotAvailable as error:
        finding = Finding(
            area="gpu",
            name=f"profile {profile}",
            verdict="fail",
            saw=error.message,
            mend=error.hint,
            exit_code=error.exit_code,
        )
        return None, [finding]
    if found.name == asked.name:
        return found, []
    return found, [
        Finding(area="gpu", name=f"profile {profile}", verdict="pass", saw=f"is {found.name} here")
    ]
