"""How full memory and the model's context are: in words, with a bar, and with a warning in time."""

from collections.abc import Iterator
from typing import NamedTuple

from textual.content import Content
from textual.widget import Widget

from ..engine.protocol import Memory
from .figures import percent, short, size
from .session import Session
from .theme import FAINT
from .transcript import Turn

FULL, TIGHT = 0.95, 0.8  # of what there is
BAR = 8  # cells
PARTS = " ▏▎▍▌▋▊▉█"  # eighths of a cell


class Gauge(NamedTuple):
    """Something that fills up."""

    used: int
    limit: int

    @property
    def share(self) -> float:
        """Of 1."""
        return self.used / self.limit if self.limit else 0.0

    @property
    def sign(self) -> str:
        """What stands beside the colour of a warning."""
        return "‼ " if self.share >= FULL else "▲ " if self.share >= TIGHT else ""

    @property
    def colour(self) -> str:
        """Empty as long as there is room."""
        return "$error" if self.share >= FULL else "$warning" if self.share >= TIGHT else ""

    def bar(self, width: int = BAR) -> Content:
        """Filled as far as it is full."""
        eighths = min(round(self.share * 8 * width), 8 * width) or (self.used > 0)
        full, part = divmod(eighths, 8)
        text = ("█" * full + PARTS[part] * (part > 0)).ljust(width)
        return Content.styled(text, f"{self.colour or '$accent'} on $foreground 12%")


def memory(said: Memory) -> Gauge:
    """What the engine holds, of what this machine can give it."""
    return Gauge(max(said.active, said.process), said.limit)


def context(session: Session) -> Gauge | None:
    """Tokens of the conversation that the model has in view, of those it can have."""
    ready = session.ready
    return Gauge(in_view(session.turn), ready.context) if ready else None


def in_view(turn: Turn | None) -> int:
    """Tokens of the prompt and of the answer so far."""
    if turn is None:
        return 0
    if turn.context is not None:
        return turn.context
    if turn.stats:
        return turn.stats.prompt_tokens + turn.stats.tokens
    return (turn.prefill.done if turn.prefill else 0) + len(turn.seconds)


class Gauges(Widget):
    """One line with both, where the terminal is large enough for it."""

    ALLOW_SELECT = False

    def __init__(self, session: Session):
        super().__init__(id="gauges")
        self.session = session

    def render(self) -> Content:
        """As much of it as there is room for."""
        width = self.size.width
        for parts in (self._parts(words) for words in (True, False)):
            gap = Content("   ")
            line = gap.join(parts)
            if line.cell_length <= width:
                return line
        return line

    def _parts(self, words: bool) -> Iterator[Content]:
        said = self.session.memory
        if said:
            gauge = memory(said)
            head, tail = f"{gauge.sign}memory ", f" {percent(gauge.share)} of {size(gauge.limit)}"
            yield _meter(gauge, head, tail)
            if words:
                pieces = ("weights", said.weights), ("cache", said.cache), ("process", said.process)
                text = " · ".join(f"{name} {size(count)}" for name, count in pieces)
                yield Content.styled(text, FAINT)
        if gauge := context(self.session):
            tail = f" {percent(gauge.share)} of {short(gauge.limit)}"
            yield _meter(gauge, f"{gauge.sign}context ", tail)


def _meter(gauge: Gauge, head: str, tail: str) -> Content:
    style = f"bold {gauge.colour}" if gauge.colour else FAINT
    return Content.assemble((head, style), gauge.bar(), (tail, style))
