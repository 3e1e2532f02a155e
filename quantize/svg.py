"""Just enough SVG for charts: text, marks, and axes that choose their ticks.

One style sheet gives every mark its colour, on light and on dark; each picture brings its own
background, so that it can be read on any page. Numbers are written with one decimal: the same
figures give the same bytes.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from xml.sax.saxutils import escape

# Names of marks and their colours on light and on dark.
_COLOURS = {
    "page": ("#ffffff", "#14181d"),
    "tile": ("#f4f6f8", "#1d232a"),
    "grid": ("#e3e7ec", "#2d353f"),
    "ink": ("#1b2028", "#e9edf2"),
    "soft": ("#5f6b7a", "#9aa6b5"),
    "first": ("#2f6fdb", "#74a9ff"),
    "second": ("#c9701a", "#f0a860"),
    "third": ("#2e8b63", "#6fcf97"),
    "fourth": ("#b0338a", "#e58ac8"),
    "fifth": ("#6a4fc4", "#b3a0f5"),
    "sixth": ("#0f8a9d", "#5fcbdc"),
    "seventh": ("#b3372f", "#f08a80"),
    "eighth": ("#75701a", "#cfc75a"),
}
# For what is told apart by colour alone.
SERIES = tuple(name for name in _COLOURS if name not in ("page", "tile", "grid", "ink", "soft"))
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def document(width: float, height: float, title: str, marks: Iterable[str]) -> str:
    """A whole picture; `title` is what those hear who do not see it."""
    light, dark = (
        "".join(
            f".{name}{{fill:{colours[i]}}}.{name}-line{{stroke:{colours[i]};fill:none}}"
            for name, colours in _COLOURS.items()
        )
        for i in range(2)
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
            f'width="{width:.0f}" height="{height:.0f}" role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>text{{font-family:{_FONT}}}{light}"
            f"@media (prefers-color-scheme:dark){{{dark}}}</style>",
            rectangle(0, 0, width, height, "page", radius=14),
            *marks,
            "</svg>\n",
        ]
    )


def text(
    x: float,
    y: float,
    words: str,
    style: str = "ink",
    *,
    size: float = 12,
    anchor: str = "start",
    bold: bool = False,
) -> str:
    """A line of text whose baseline is at y."""
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" class="{style}" font-size="{size:g}" '
        f'text-anchor="{anchor}"{weight}>{escape(words)}</text>'
    )


def phrase(x: float, y: float, bold: str, more: str, *, size: float = 12) -> str:
    """A line of text that begins in bold and goes on softly."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}">'
        f'<tspan class="ink" font-weight="600">{escape(bold)}</tspan>'
        f'<tspan class="soft" dx="8" font-size="{size - 1:g}">{escape(more)}</tspan></text>'
    )


def rectangle(
    x: float, y: float, width: float, height: float, style: str, *, radius: float = 0
) -> str:
    """A filled box."""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
        f'rx="{radius:g}" class="{style}"/>'
    )


def line(points: Sequence[tuple[float, float]], style: str, *, width: float = 1) -> str:
    """A line through points."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" class="{style}-line" stroke-width="{width:g}"/>'


def area(points: Sequence[tuple[float, float]], style: str) -> str:
    """What a line encloses, faintly."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polygon points="{path}" class="{style}" fill-opacity="0.14"/>'


def dot(x: float, y: float, style: str, *, radius: float = 3.5) -> str:
    """A filled circle."""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" class="{style}"/>'


@dataclass(frozen=True)
class Scale:
    """Where on the page a value lies, between `start` for the lowest and `end` for the highest."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The place of a value; what lies outside is put on the border."""
        value = min(max(value, self.low), self.high)
        low, high, at = (self._even(v) for v in (self.low, self.high, value))
        return self.start + (self.end - self.start) * (at - low) / (high - low)

    @cached_property
    def ticks(self) -> list[float]:
        """A handful of round values: powers of ten on a logarithmic scale."""
        if self.log:
            first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
            step = max(1, math.ceil((last - first + 1) / 6))
            return [10.0**power for power in range(first, last + 1, step)]
        step = round_step(self.high - self.low)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [i * step for i in range(first, last + 1)]

    def _even(self, value: float) -> float:
        return math.log10(value) if self.log else value


def round_step(span: float, steps: int = 4) -> float:
    """1, 2 or 5 times a power of ten, at least a `steps`-th of a span."""
    power = 10.0 ** math.floor(math.log10(span / steps))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= span / steps * (1 - 1e-9))


def linear(values: Iterable[float], start: float, end: float, *, low: float = 0.0) -> Scale:
    """A scale from `low` to a round value above all others."""
    top = max([*values, low])
    top = top if top > low else low + 1
    step = round_step(top - low)
    return Scale(low, low + math.ceil((top - low) / step - 1e-9) * step, start, end)


def logarithmic(values: Iterable[float], start: float, end: float) -> Scale:
    """A scale of whole powers of ten around values, those that are not above 0 aside."""
    found = [value for value in values if value > 0] or [1.0]
    low, high = math.floor(math.log10(min(found))), math.ceil(math.log10(max(found)))
    return Scale(10.0**low, 10.0 ** max(high, low + 1), start, end, log=True)


def around(values: Iterable[float], start: float, end: float) -> Scale:
    """A scale between round values on both sides of all others."""
    values = list(values)
    low, high = min(values), max(values)
    step = round_step(high - low if high > low else abs(high) or 1.0)
    low, high = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return Scale(low * step, max(high, low + 1) * step, start, end)


def rows(scale: Scale, left: float, right: float, words: Callable[[float], str]) -> list[str]:
    """Faint lines across a chart, and what they stand for to the left of it."""
    marks = []
    for tick in scale.ticks:
        y = scale(tick)
        marks.append(line([(left, y), (right, y)], "grid"))
        marks.append(text(left - 6, y + 3.5, words(tick), "soft", size=10, anchor="end"))
    return marks


def columns(
    ticks: Iterable[float], scale: Scale, y: float, words: Callable[[float], str]
) -> list[str]:
    """What places along the bottom of a chart stand for."""
    return [text(scale(t), y + 14, words(t), "soft", size=10, anchor="middle") for t in ticks]
