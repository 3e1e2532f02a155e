"""The line at the top: which model, on what, and how much memory it takes."""

from typing import NamedTuple

from textual.content import Content
from textual.widget import Widget

from . import gauges
from .figures import percent, short, size
from .session import Session
from .theme import FAINT

ROOMY = 96  # cells, from which on figures have names
DOT = " · "


class Fact(NamedTuple):
    """Something about the model; where the line is too long, the facts of low rank are left out."""

    text: str
    rank: int
    right: bool = False
    style: str = FAINT


class StatusLine(Widget):
    """A view of the session's `Ready` and `Memory`."""

    ALLOW_SELECT = False

    def __init__(self, session: Session, name: str):
        super().__init__(id="status")
        self.session, self.model = session, name
        self.fetching: float | None = None  # how much is here of what is on its way

    def render(self) -> Content:
        """The name and what the model is on the left, how it stands on the right."""
        facts, width = self._facts(), self.size.width
        while facts and len(self.model) + sum(len(DOT + fact.text) for fact in facts) > width:
            facts.remove(min(facts, key=lambda fact: fact.rank))
        name = Content.styled(self.model, "bold $foreground")
        dot = Content.styled(DOT, FAINT)
        left = dot.join([name, *(Content.styled(f.text, f.style) for f in facts if not f.right)])
        right = dot.join(Content.styled(f.text, f.style) for f in facts if f.right)
        gap = max(width - left.cell_length - right.cell_length, 1)
        return Content.assemble(left, " " * gap, right)

    def _facts(self) -> list[Fact]:
        ready, memory = self.session.ready, self.session.memory
        facts = []
        if self.session.keeper.history.trouble:
            facts.append(Fact("not saved", 8, right=True, style="bold $warning"))
        if self.fetching is not None:
            facts.append(Fact(f"fetching {percent(self.fetching)}", 7, right=True))

        def named(name: str, value: str) -> str:
            return name + value if self.size.width >= ROOMY else value

        if ready:
            if _letters(ready.architecture) not in _letters(self.model):
                facts.append(Fact(ready.architecture, 1))
            facts += [Fact(short(ready.parameters), 2), Fact(ready.device, 3)]
        if view := gauges.context(self.session):
            used = f"{short(view.used)} of {short(view.limit)} · {percent(view.share)}"
            facts.append(
                Fact(view.sign + named("context ", used), 5, right=True, style=_style(view, FAINT))
            )
        if memory and view and view.used:
            facts.append(Fact(named("cache ", size(memory.cache)), 4, right=True))
        if memory:
            held = gauges.memory(memory)
            text = f"{size(held.used)} of {size(held.limit)}".replace(" GB of", " of")
            style = _style(held, "$foreground")
            facts.append(Fact(held.sign + named("memory ", text), 6, right=True, style=style))
        return facts


def _style(gauge: gauges.Gauge, usual: str) -> str:
    return f"bold {gauge.colour}" if gauge.colour else usual


def _letters(text: str) -> str:
    """What two spellings of one name have in common."""
    return "".join(letter for letter in text.lower() if letter.isalnum())
