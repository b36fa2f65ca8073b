"""Checks as JUnit XML, in the form that CI systems read (Jenkins' junit-10.xsd).

testsuites > testsuite (name, tests, failures, errors, skipped, time, timestamp) > testcase (name, classname,
time), with one <failure> or <skipped> inside where it did not pass; times are in seconds.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from xml.etree import ElementTree

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Case:
    """One test case. `passed` None: skipped, for the reason in `message`; `lines` tell more of a failure."""

    name: str
    passed: bool | None
    message: str
    lines: Sequence[str] = ()
    seconds: float = 0.0


def render(suite: str, cases: Sequence[Case], *, properties: Sequence[tuple[str, str]] = ()) -> str:
    """The cases as one document; what XML cannot hold (control characters) is replaced by U+FFFD."""
    totals = {
        "tests": str(len(cases)),
        "failures": str(sum(case.passed is False for case in cases)),
        "errors": "0",
        "skipped": str(sum(case.passed is None for case in cases)),
        "time": _seconds(sum(case.seconds for case in cases)),
    }
    root = ElementTree.Element("testsuites", {"name": "deploytool", **totals})
    moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    element = ElementTree.SubElement(
        root, "testsuite", {"name": _clean(suite), **totals, "timestamp": moment}
    )
    if properties:
        holder = ElementTree.SubElement(element, "properties")
        for name, value in properties:
            ElementTree.SubElement(holder, "property", {"name": _clean(name), "value": _clean(value)})
    for case in cases:
        _add(element, suite, case)
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _add(parent: ElementTree.Element, suite: str, case: Case) -> None:
    place = {"name": _clean(case.name), "classname": _clean(suite), "time": _seconds(case.seconds)}
    element = ElementTree.SubElement(parent, "testcase", place)
    message = _clean(case.message)
    if case.passed is None:
        ElementTree.SubElement(element, "skipped", {"message": message})
    elif case.passed is False:
        failure = ElementTree.SubElement(element, "failure", {"message": message, "type": "check"})
        failure.text = _clean("\n".join([case.message, *case.lines]))
    else:
        ElementTree.SubElement(element, "system-out").text = message


def _seconds(value: float) -> str:
    return f"{value:.3f}"


def _clean(text: str) -> str:
    return _NOT_XML.sub("�", text)
