"""Bars of text: the milliseconds of each token, and how far a long wait has come."""

from collections.abc import Sequence
from statistics import median

from rich.segment import Segment
from textual.content import Content
from textual.reactive import reactive
from textual.strip import Strip
from textual.widget import Widget

from .figures import milliseconds, pace

LEVELS = " ▁▂▃▄▅▆▇█"
SLOW = 2.0  # times the median
TALL = 2.5  # times the median: bars are cut off above, so that one long wait flattens nothing
KEY = "each token of an answer becomes a bar here: the taller, the slower"
STEPS = (1, 1.5, 2, 3, 4, 5, 6, 8, 10)


def scale(seconds: Sequence[float]) -> float:
    """A round number of seconds that the tallest bar stands for."""
    top = min(max(seconds), TALL * median(seconds)) or max(seconds) or 1e-3
    power = 1e-6
    while power * 10 < top:
        power *= 10
    return next(step * power for step in STEPS if step * power >= top * 0.999)


class TokenBars(Widget):
    """One bar a token, as tall as the token was long, the newest at the right; a key below."""

    ALLOW_SELECT = False
    COMPONENT_CLASSES = {"bars--usual", "bars--slow", "bars--ground", "bars--key"}

    seconds: reactive[tuple[float, ...]] = reactive(())

    @property
    def shown(self) -> tuple[float, ...]:
        """The tokens there is room for."""
        return self.seconds[-max(self.size.width, 1) :]

    def render_line(self, y: int) -> Strip:
        """One row of all bars, or the key."""
        width, rows = self.size.width, self.size.height - 1
        if y == rows:
            style = self.get_component_rich_style("bars--key")
            return Strip([Segment(self._key().ljust(width), style)]).crop(0, width)
        if not self.shown:
            ground = self.get_component_rich_style("bars--ground")
            return Strip([Segment((LEVELS[1] if y == rows - 1 else " ") * width, ground)], width)
        usual = self.get_component_rich_style("bars--usual")
        slow = self.get_component_rich_style("bars--slow")
        top, threshold = scale(self.shown), SLOW * median(self.seconds)
        below = 8 * (rows - 1 - y)  # eighths of a row that lie under this one
        segments = []
        for value in self.shown:
            level = max(1, min(round(value / top * 8 * rows), 8 * rows))
            cell = LEVELS[max(0, min(level - below, 8))]
            segments.append(Segment(cell, slow if value > threshold else usual))
        segments.append(Segment(" " * (width - len(self.shown)), usual))
        return Strip(segments, width).simplify()

    def _key(self) -> str:
        speed = pace(self.seconds)
        if speed.median is None or speed.slowest is None:
            return KEY
        return (
            f"0 to {milliseconds(scale(self.shown))} ms · median {milliseconds(speed.median)} · "
            f"slowest {milliseconds(speed.slowest)}"
        )


def progress(width: int, done: float, cached: float = 0.0) -> Content:
    """A bar of `width` cells; `done` and `cached` are shares of it, `cached` within `done`."""
    kept = round(width * cached)
    full = max(round(width * done), kept)
    return Content.assemble(
        ("━" * kept, "$primary 50%"),
        ("━" * (full - kept), "$primary"),
        ("━" * (width - full), "$foreground 15%"),
    )
