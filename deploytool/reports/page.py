"""The frame of an HTML page: no script, no outside resource, only its own stylesheet, by hash."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources

from deploytool import __version__
from deploytool.reports.markup import Markup, element


def whole(title: str, main: Markup, source: str) -> str:
    """The page around `main`. `source` ends the sentence "Made by deploytool ..."."""
    footer = element("footer", f"Made by deploytool {__version__} {source}.")
    body = element("body", main, footer)
    return f"<!DOCTYPE html>\n{element('html', head(title), body, lang='en')}\n"


def head(title: str) -> Markup:
    """With a content security policy: what an endpoint says can be shown, and cannot do anything."""
    style = resources.files("deploytool.reports").joinpath("page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", title),
        element("style", Markup(style)),
    )
