"""The HTML report in a real browser: it fits a phone and a desk, obeys its own policy, and turns dark."""

from __future__ import annotations

import html as html_format
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from example_decisions import example_decision
from example_runs import (
    GRID,
    LARGE_GRID,
    card_run,
    empty_run,
    hostile_run,
    large_run,
    memory_rows,
    request_rows,
)

from deploytool.reports import bakeoff_page, html

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not on PATH: the page was not rendered")

# Runs in a copy of the page whose policy allows scripts; the stylesheet is still admitted by its hash alone.
MEASURE = """
const wide = innerWidth;
const over = [...document.querySelectorAll("body *")].filter(
  (e) => e.getBoundingClientRect().right > wide + 1 && !e.closest(".scroll"));
const svgs = [...document.querySelectorAll("svg")].map((e) => e.getBoundingClientRect());
document.title = JSON.stringify({
  inner: wide, scroll: document.documentElement.scrollWidth, over: over.map((e) => e.outerHTML.slice(0, 80)),
  svgs: svgs.length, flat: svgs.filter((r) => r.width < 200 || r.height < 60).length,
  paper: getComputedStyle(document.body).backgroundColor,
  ink: getComputedStyle(document.body).color,
  h1: parseFloat(getComputedStyle(document.querySelector("h1")).fontSize),
  tiny: [...document.querySelectorAll("svg text")].filter((e) => e.getBoundingClientRect().height < 7).length,
});
"""

PHONE, DESK = 390, 1200
# A frame is as narrow as it is told to be; a headless window is at least 500 pixels wide.
FRAME = "<iframe style='border:0;width:{width}px;height:2000px' srcdoc=\"{page}\"></iframe>"
FRAMES = """<!DOCTYPE html><title>not loaded</title><body style="margin:0">{frames}
<script>onload = () => {{
  const frames = [...document.querySelectorAll("iframe")];
  document.title = "[" + frames.map((e) => e.contentDocument.title).join(",") + "]";
}};</script>"""


@cache
def pages() -> dict[str, str]:
    grids = {
        "card": (card_run, GRID),
        "large": (large_run, LARGE_GRID),
        "hostile": (hostile_run, [(1, 1), (1, 4)]),
    }
    found = {
        name: html.render(run(), request_rows(grid), memory_rows(grid, card=name == "card"))
        for name, (run, grid) in grids.items()
    }
    found["bakeoff"] = bakeoff_page.html(example_decision("a-system-of-a-rather-long-name"))
    return found | {"empty": html.render(empty_run(), None, None)}


def browse(path: Path, width: int, *flags: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    return subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", "--no-first-run", "--disable-dev-shm-usage",
            f"--user-data-dir={path.parent / 'profile'}", f"--window-size={width},2000",
            "--enable-logging=stderr", "--dump-dom", *flags, path.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )  # fmt: skip


def measured(several: Sequence[str], tmp_path: Path, *flags: str) -> list[list[dict[str, Any]]]:
    """What a phone and a desk make of each page, by one start of the browser."""
    frames = ""
    for page in several:
        closed = "default-src &#x27;none&#x27;; "
        assert page.count(closed) == 1
        allowed = page.replace(closed, f"{closed}script-src &#x27;unsafe-inline&#x27;; ")
        allowed = allowed.replace("</body>", f"<script>{MEASURE}</script></body>")
        assert allowed.count("<script>") == 1
        for width in (PHONE, DESK):
            frames += FRAME.format(width=width, page=html_format.escape(allowed))
    path = tmp_path / "page.html"
    path.write_text(FRAMES.format(frames=frames), encoding="utf-8")
    title = re.search(r"<title>(.*?)</title>", browse(path, 1400, *flags).stdout, re.DOTALL)
    assert title is not None
    found: list[dict[str, Any]] = json.loads(html_format.unescape(title[1]))
    return [found[place : place + 2] for place in range(0, len(found), 2)]


REPORTS = ("card", "large", "hostile", "empty")


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    found = measured([pages()[name] for name in REPORTS], tmp_path_factory.mktemp("pages"))
    return dict(zip(REPORTS, found, strict=True))


@pytest.mark.parametrize("name", REPORTS)
def test_the_page_has_no_sideways_scroll(name: str, seen: dict[str, list[dict[str, Any]]]) -> None:
    check(name, seen[name])


@pytest.mark.slow
def test_the_page_of_a_bakeoff_has_no_sideways_scroll(tmp_path: Path) -> None:
    check("bakeoff", *measured([pages()["bakeoff"]], tmp_path))


def check(name: str, both: list[dict[str, Any]]) -> None:
    drawings = pages()[name].count("<svg")
    for found, width in zip(both, (PHONE, DESK), strict=True):
        assert found["inner"] == width
        assert found["scroll"] <= width
        assert found["over"] == []
        assert found["h1"] == (27 if width == PHONE else 34)  # its own stylesheet was admitted
        assert found["svgs"] == drawings
        assert found["flat"] == 0
        assert found["tiny"] == 0


def test_the_page_turns_dark_where_the_reader_wants_it(tmp_path: Path) -> None:
    ((light, _),) = measured([pages()["card"]], tmp_path, "--blink-settings=preferredColorScheme=1")
    ((dark, _),) = measured([pages()["card"]], tmp_path, "--blink-settings=preferredColorScheme=0")
    assert (light["paper"], light["ink"]) == ("rgb(255, 255, 255)", "rgb(22, 25, 29)")
    assert (dark["paper"], dark["ink"]) == ("rgb(20, 23, 27)", "rgb(236, 238, 241)")


@pytest.mark.parametrize("name", ["card", "hostile"])
def test_the_page_as_it_is_breaks_no_rule_of_its_policy(name: str, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(pages()[name], encoding="utf-8")
    answer = browse(path, 1200)
    assert "<h2>Results</h2>" in answer.stdout
    assert "CONSOLE" not in answer.stderr
