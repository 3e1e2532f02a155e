"""Bars of text: the milliseconds of each token, and how far a long wait has come."""

from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean, median

from rich.segment import Segment
from textual.content import Content
from textual.strip import Strip

from .figures import Guesses, Pace, milliseconds, own, pace, percent
from .lines import Growing

LEVELS = " ▁▂▃▄▅▆▇█"
GUESSED = " ╷╷╷╷││││"  # bars of guessed tokens are thin, so that they differ without colour
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


def squeeze(values: Sequence[float], width: int) -> list[float]:
    """The means of at most `width` groups of neighbours, all about as large."""
    count = min(width, len(values))
    edges = [len(values) * index // count for index in range(count + 1)] if count else [0]
    return [fmean(values[a:b]) for a, b in pairwise(edges)]


class TokenBars(Growing):
    """One bar a token, as tall as the token was long, the newest at the right; a key below.

    Args:
        whole: Show all tokens instead of the newest: where there is no room, a bar is the mean of
            some neighbours.
    """

    ALLOW_SELECT = False
    COMPONENT_CLASSES = {"bars--usual", "bars--slow", "bars--guessed", "bars--ground", "bars--key"}

    def __init__(self, *, whole: bool = False):
        super().__init__()
        self.whole = whole
        self.seconds: Sequence[float] = ()
        self.guessed: Sequence[bool] = ()
        self.guesses: Guesses | None = None
        self.speed = pace(())

    def show(
        self,
        seconds: Sequence[float],
        guessed: Sequence[bool],
        guesses: Guesses | None,
        speed: Pace,
    ) -> None:
        """Follow an answer; its speed is that of all tokens, or of all but the last few."""
        told = len(seconds), guesses, speed
        if told != (len(self.seconds), self.guesses, self.speed) or not seconds:
            self.seconds, self.guessed = tuple(seconds), tuple(guessed)
            self.guesses, self.speed = guesses, speed
            self.refresh()

    @property
    def shown(self) -> Sequence[float]:
        """The seconds of each bar."""
        width = max(self.size.width, 1)
        return squeeze(self.seconds, width) if self.whole else self.seconds[-width:]

    @property
    def _flags(self) -> Sequence[bool]:
        """Of each bar, whether its token, or most of them, had been guessed."""
        width = max(self.size.width, 1)
        if self.whole:
            return [share > 0.5 for share in squeeze(self.guessed, width)]
        return self.guessed[-width:]

    def render_line(self, y: int) -> Strip:
        """One row of all bars, or the key."""
        width, rows = self.size.width, self.size.height - 1
        if y == rows:
            style = self.get_component_rich_style("bars--key")
            return Strip([Segment(self._key(width).ljust(width), style)]).crop(0, width)
        shown = self.shown
        if not shown:
            ground = self.get_component_rich_style("bars--ground")
            return Strip([Segment((LEVELS[1] if y == rows - 1 else " ") * width, ground)], width)
        usual, slow, thin = (
            self.get_component_rich_style(f"bars--{name}") for name in ("usual", "slow", "guessed")
        )
        flags = self._flags
        top, threshold = scale(own(shown, flags)), SLOW * (self.speed.median or self.seconds[0])
        below = 8 * (rows - 1 - y)  # eighths of a row that lie under this one
        segments = []
        for value, guessed in zip(shown, flags, strict=False):
            level = max(1, min(round(value / top * 8 * rows), 8 * rows))
            cell = (GUESSED if guessed else LEVELS)[max(0, min(level - below, 8))]
            style = slow if value > threshold else thin if guessed else usual
            segments.append(Segment(cell, style))
        segments.append(Segment(" " * (width - len(shown)), usual))
        return Strip(segments, width).simplify()

    def _key(self, width: int) -> str:
        """As much of the key as there is room for."""
        speed = self.speed
        if speed.median is None or speed.slowest is None:
            return KEY
        bars = f"0 to {milliseconds(scale(own(self.shown, self._flags)))} ms"
        middle = f"median {milliseconds(speed.median)}"
        slowest = f"slowest {milliseconds(speed.slowest)}"
        keys = [[bars, middle, slowest]]
        if found := self.guesses:
            counts = f"│ guessed: {found.right:,} right, {found.wrong:,} wrong"
            share = f"{counts} ({percent(found.share)})"
            keys = [[bars, middle, slowest, share], [bars, middle, share], [bars, counts], [counts]]
        lines = [" · ".join(parts) for parts in keys]
        return next((line for line in lines if len(line) <= width), lines[-1])


def progress(width: int, done: float, cached: float = 0.0) -> Content:
    """A bar of `width` cells; `done` and `cached` are shares of it, `cached` within `done`."""
    kept = round(width * cached)
    full = max(round(width * done), kept)
    return Content.assemble(
        ("━" * kept, "$primary 50%"),
        ("━" * (full - kept), "$primary"),
        ("━" * (width - full), "$foreground 15%"),
    )
