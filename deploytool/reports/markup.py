"""HTML and SVG as text, escaped unless it is known to be markup: there is no other way to make an element."""

from __future__ import annotations

import html
from collections.abc import Iterable

from deploytool.reports.wording import plain

VOID = frozenset({"meta", "br", "hr", "col", "link"})


class Markup(str):
    """Text that is markup already. Everything else is escaped when it becomes a child or an attribute."""

    __slots__ = ()


Child = str | None | Iterable["Child"]


def element(tag: str, *children: Child, **attributes: object) -> Markup:
    """One element. `class_` is class, `stroke_width` is stroke-width; those that are None are left out."""
    texts = [f' {_name(name)}="{_value(value)}"' for name, value in attributes.items() if value is not None]
    opened = f"<{tag}{''.join(texts)}>"
    return Markup(opened if tag in VOID else f"{opened}{join(*children)}</{tag}>")


def join(*children: Child) -> Markup:
    """Children one after the other, each escaped unless it is markup."""
    return Markup("".join(_text(child) for child in children))


def _text(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Markup):
        return child
    if isinstance(child, str):
        return html.escape(plain(child), quote=False)
    return "".join(_text(inner) for inner in child)


def _name(name: str) -> str:
    return name.rstrip("_").replace("_", "-")


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return html.escape(plain(value))
