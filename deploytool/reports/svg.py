"""What the charts are drawn with: scales, ticks, axes, markers, labels that keep out of each other's way.

Essential colours are presentation attributes, which no content security policy blocks; the page's stylesheet
refines them for dark screens by class.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from deploytool.reports.markup import Child, Markup, element, join

# Okabe and Ito, "Color Universal Design" (2008), ordered so that neighbours differ in lightness on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5B5B5B", "#A89A00")
DASHES = (None, "7 3", "2 3", "9 3 2 3")
CHARACTER_PX = 6.6  # the mean width of a character at the charts' 12 px


@dataclass(frozen=True)
class Scale:
    """From values to pixels, linear or logarithmic (then `low` > 0)."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        if self.log:
            part = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            part = (value - self.low) / (self.high - self.low)
        return self.start + part * (self.end - self.start)

    def ticks(self, most: int = 6) -> list[float]:
        """Round values within the scale, at most about `most`."""
        return _log_ticks(self.low, self.high, most) if self.log else _linear_ticks(self.low, self.high, most)


def scale(values: Sequence[float], start: float, end: float, *, log_from: float, zero: bool = True) -> Scale:
    """A scale for positive `values`: logarithmic where they span a factor of `log_from` or more."""
    low, high = min(values), max(values)
    if low > 0 and high / low >= log_from:
        return Scale(low / 1.15, high * 1.15, start, end, log=True)
    if zero:
        return Scale(0.0, high * 1.06 or 1.0, start, end)
    room = (high - low) * 0.08 or abs(high) * 0.02 or 1.0
    return Scale(low - room, high + room, start, end)


def _linear_ticks(low: float, high: float, most: int) -> list[float]:
    rough = (high - low) / max(1, most)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        ticks = [factor * 10.0**power for power in powers for factor in factors]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= most:
            return ticks
    return ticks[:: math.ceil(len(ticks) / most)]


@dataclass(frozen=True)
class Plot:
    """A drawing of width x height with a plot area inside its margins."""

    width: float
    height: float
    left: float = 58
    right: float = 16
    top: float = 14
    bottom: float = 46

    def x_axis(self, scale: Scale, title: str, ticks: Sequence[tuple[float, str]] | None = None) -> Markup:
        """Grid lines, tick labels and the title below."""
        bottom = self.height - self.bottom
        marks = ticks if ticks is not None else [(tick, tick_text(tick)) for tick in scale.ticks(7)]
        return join(
            [
                join(
                    line(scale(tick), self.top, scale(tick), bottom, "grid"),
                    text(scale(tick), bottom + 16, words, anchor="middle"),
                )
                for tick, words in marks
            ],
            text((self.left + self.width - self.right) / 2, self.height - 8, title, "axis", anchor="middle"),
        )

    def y_axis(self, scale: Scale, title: str, most: int = 6) -> Markup:
        """Grid lines, tick labels and the title above the axis."""
        return join(
            [
                join(
                    line(self.left, scale(tick), self.width - self.right, scale(tick), "grid"),
                    text(self.left - 7, scale(tick) + 4, tick_text(tick), anchor="end"),
                )
                for tick in scale.ticks(most)
            ],
            text(2, self.top - 10, title, "axis"),
        )

    def drawn(self, name: str, description: str, *children: Child, class_: str | None = None) -> Markup:
        """The whole drawing, named for those who do not see it."""
        return element(
            "svg",
            element("title", name),
            element("desc", description),
            *children,
            viewBox=f"0 0 {self.width:g} {self.height:g}",
            role="img",
            aria_label=f"{name}. {description}",
            font_family="system-ui, sans-serif",
            font_size=12,
            class_=class_,
        )


def tick_text(value: float) -> str:
    """A round value as it is written on an axis."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, stroke="#8a8f98", stroke_width=1.0, class_=class_)


def text(x: float, y: float, words: str, class_: str = "tick", *, anchor: str | None = None) -> Markup:
    return element("text", words, x=x, y=y, class_=class_, text_anchor=anchor, fill="#6b7280")


def path(points: Sequence[tuple[float, float]]) -> str:
    """A path's `d` through the points."""
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def series_class(index: int) -> str:
    return f"s{index % len(PALETTE)}"


def series_line(points: Sequence[tuple[float, float]], index: int, dash: str | None = None) -> Markup:
    """The line of series `index`: its colour, and a dash pattern once the colours are used up."""
    return element(
        "path",
        d=path(points),
        fill="none",
        stroke=PALETTE[index % len(PALETTE)],
        stroke_width=2.0,
        stroke_linejoin="round",
        stroke_dasharray=dash or DASHES[index // len(PALETTE) % len(DASHES)],
        class_=f"line {series_class(index)}",
    )


_SHAPES = (
    "M{x} {y}m-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0",
    "M{x} {y}m-4-4h8v8h-8z",
    "M{x} {y}m0-5.5l5 9h-10z",
    "M{x} {y}m0-5.5l5 5.5-5 5.5-5-5.5z",
    "M{x} {y}m0 5.5l5-9h-10z",
    "M{x} {y}m-1.6-5h3.2v3.4h3.4v3.2h-3.4v3.4h-3.2v-3.4h-3.4v-3.2h3.4z",
    "M{x} {y}m-5-2.5l5-3 5 3v5l-5 3-5-3z",
    "M{x} {y}m-5 0a5 5 0 0 1 10 0z",
)


def marker(x: float, y: float, index: int, words: str) -> Markup:
    """The marker of series `index`; `words` show when the pointer rests on it."""
    shape = _SHAPES[index % len(_SHAPES)].format(x=f"{x:.1f}", y=f"{y:.1f}")
    colour = PALETTE[index % len(PALETTE)]
    return element(
        "path", element("title", words), d=shape, fill=colour, class_=f"mark {series_class(index)}"
    )


def cross(x: float, y: float, words: str) -> Markup:
    """The marker of a cell whose figures do not count."""
    shape = f"M{x:.1f} {y:.1f}m-4.5-4.5l9 9m0-9l-9 9"
    return element(
        "path",
        element("title", words),
        d=shape,
        fill="none",
        stroke="#6b7280",
        stroke_width=2.0,
        class_="cross",
    )


Box = tuple[float, float, float, float]


@dataclass
class Labels:
    """Puts labels where no earlier one stands, and off the points and lines that were drawn."""

    width: float
    height: float
    placed: list[Box] = field(default_factory=list)
    drawn: list[Box] = field(default_factory=list)

    def keep_free(self, x: float, y: float, radius: float) -> None:
        self.drawn.append((x - radius, y - radius, x + radius, y + radius))

    def keep_line_free(self, points: Sequence[tuple[float, float]]) -> None:
        """Keep what lies along a line free, in steps of a few pixels."""
        for (x1, y1), (x2, y2) in itertools.pairwise(points):
            steps = max(1, int(math.hypot(x2 - x1, y2 - y1) / 6))
            for step in range(steps + 1):
                part = step / steps
                self.keep_free(x1 + part * (x2 - x1), y1 + part * (y2 - y1), 2)

    def place(
        self, x: float, y: float, words: str, class_: str, *, needed: bool = False, colour: str = "#6b7280"
    ) -> Markup | None:
        """The label beside (x, y). Without room: None, or over a line where it is `needed`."""
        wide = len(words) * CHARACTER_PX
        places = [(9.0, 4.0), (-wide - 9, 4.0), (-wide / 2, -10.0), (-wide / 2, 19.0)]
        places += [(6.0, -7.0), (6.0, 16.0), (-wide - 6, -7.0), (-wide - 6, 16.0)]
        boxes = [(x + dx, y + dy - 10, x + dx + wide, y + dy + 3) for dx, dy in places]
        inside = [box for box in boxes if self._inside(box)]
        apart = [box for box in inside if not any(_meet(box, other) for other in self.placed)]
        free = [box for box in apart if not any(_meet(box, other) for other in self.drawn)]
        if not free and not needed:
            return None
        box = (free or apart or inside or boxes)[0]
        self.placed.append(box)
        return element("text", words, x=box[0], y=box[3] - 3, class_=class_, fill=colour)

    def _inside(self, box: Box) -> bool:
        return box[0] >= 0 and box[1] >= 0 and box[2] <= self.width and box[3] <= self.height


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
