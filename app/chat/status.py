"""The line at the top: which model, on what, and how much memory it takes."""

from typing import NamedTuple

from textual.content import Content
from textual.widget import Widget

from .figures import short, size
from .session import Session

TIGHT = 0.9  # of the memory this machine recommends
DOT = " · "


class Fact(NamedTuple):
    """Something about the model; where the line is too long, the facts of low rank are left out."""

    text: str
    rank: int
    right: bool = False
    style: str = "$foreground 55%"


class StatusLine(Widget):
    """A view of the session's `Ready` and `Memory`."""

    ALLOW_SELECT = False

    def __init__(self, session: Session, name: str):
        super().__init__(id="status")
        self.session, self.model = session, name

    def render(self) -> Content:
        """The name and what the model is on the left, how it stands on the right."""
        facts, width = self._facts(), self.size.width
        while facts and len(self.model) + sum(len(DOT + fact.text) for fact in facts) > width:
            facts.remove(min(facts, key=lambda fact: fact.rank))
        name = Content.styled(self.model, "bold $foreground")
        dot = Content.styled(DOT, "$foreground 55%")
        left = dot.join([name, *(Content.styled(f.text, f.style) for f in facts if not f.right)])
        right = dot.join(Content.styled(f.text, f.style) for f in facts if f.right)
        gap = max(width - left.cell_length - right.cell_length, 1)
        return Content.assemble(left, " " * gap, right)

    def _facts(self) -> list[Fact]:
        ready, memory = self.session.ready, self.session.memory
        facts = []
        if ready:
            if _letters(ready.architecture) not in _letters(self.model):
                facts.append(Fact(ready.architecture, 1))
            context = f"{short(self.session.context_tokens)} of {short(ready.context)} tokens"
            facts += [
                Fact(short(ready.parameters), 2),
                Fact(ready.device, 3),
                Fact(context, 4, right=True),
            ]
        if memory:
            tight = memory.limit > 0 and memory.active > TIGHT * memory.limit
            style = "bold $warning" if tight else "$foreground"
            text = f"{size(memory.active)} of {size(memory.limit)}".replace(" GB of", " of")
            facts.append(Fact(text, 5, right=True, style=style))
        return facts


def _letters(text: str) -> str:
    """What two spellings of one name have in common."""
    return "".join(letter for letter in text.lower() if letter.isalnum())
