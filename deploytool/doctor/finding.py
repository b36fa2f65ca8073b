"""What the doctor says of one thing: pass, warn or fail, what was seen, and the mend."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from deploytool.errors import DeploytoolError, NotAvailable
from deploytool.schema import Document

Verdict = Literal["pass", "warn", "fail"]


class Finding(Document):
    """One examined thing. A `fail` keeps what was asked for from running; a `warn` may hurt it or others."""

    area: str
    name: str
    verdict: Verdict
    saw: str
    mend: str | None = None
    exit_code: int = Field(default=0, description="of a failure: the code that `up` would end with")


class Report(Document):
    """All findings for a profile and a model (None: not asked)."""

    profile: str | None
    model: str | None
    verdict: Verdict
    exit_code: int
    findings: tuple[Finding, ...]

    @classmethod
    def of(cls, profile: str | None, model: str | None, findings: list[Finding]) -> Report:
        verdicts = [finding.verdict for finding in findings]
        worst: Verdict = "fail" if "fail" in verdicts else "warn" if "warn" in verdicts else "pass"
        code = next((finding.exit_code for finding in findings if finding.verdict == "fail"), 0)
        return cls(profile=profile, model=model, verdict=worst, exit_code=code, findings=tuple(findings))


class Examination:
    """Findings of one area, in the order in which they are made."""

    def __init__(self, area: str) -> None:
        self.area = area
        self.findings: list[Finding] = []

    def passed(self, name: str, saw: str) -> None:
        self._add(name, "pass", saw)

    def warned(self, name: str, saw: str, mend: str | None = None) -> None:
        self._add(name, "warn", saw, mend)

    def failed(
        self, name: str, saw: str, mend: str | None, kind: type[DeploytoolError] = NotAvailable
    ) -> None:
        self._add(name, "fail", saw, mend, kind.exit_code)

    def judged(self, name: str, saw: str, mend: str | None, *, fatal: bool) -> None:
        """A failure where what was asked for needs it, else a warning."""
        if fatal:
            self.failed(name, saw, mend)
        else:
            self.warned(name, saw, mend)

    def _add(
        self, name: str, verdict: Verdict, saw: str, mend: str | None = None, exit_code: int = 0
    ) -> None:
        self.findings.append(
            Finding(area=self.area, name=name, verdict=verdict, saw=saw, mend=mend, exit_code=exit_code)
        )
