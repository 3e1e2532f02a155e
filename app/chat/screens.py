"""What is shown beside the conversation: the welcome before it and the help over it."""

from collections.abc import Sequence
from textwrap import wrap

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from .actions import SUBJECTS
from .figures import duration, short, size
from .session import Session
from .theme import FAINT
from .transcript import plain

GUIDE = (
    "This is the guide, a small model that is part of mlxarch and works offline. It knows how to "
    "chat, run, convert and quantize with mlxarch, and little else."
)
REAL = "To chat with a real model, give its repository on the hub or its folder:"
EXAMPLES = ("mlxarch chat Nanbeige/Nanbeige4.1-3B", "mlxarch chat path/to/checkpoint")
LEAST = 20  # cells for what a key does; with fewer, it is said below the key
PALETTE = ("Ctrl+P", "", "Find any of these by name")
FIGURES = (
    ("tok/s now", "the mean of the last ten tokens"),
    ("tok/s mean", "of all tokens of the answer but the first"),
    ("first in", "from your Enter to the first token"),
    ("bars", "one a token; amber took over twice the median, thin ones were guessed"),
    ("ms", "milliseconds of a token, the median of an answer"),
    ("cached 7 of 9", "tokens of the prompt that did not have to be read again"),
)


class Welcome(Static):
    """The first screen: who answers here."""

    def __init__(self, session: Session, name: str, *, guide: bool):
        super().__init__(id="welcome")
        self.session, self.model, self.guide = session, name, guide

    def render(self) -> Content:
        """The guide introduces itself; any other model is described."""
        if self.guide:
            lines = [
                Content.styled("Welcome to mlxarch", "bold $primary"),
                Content(),
                Content(GUIDE),
                Content(),
                Content(REAL),
                *(Content.assemble("    ", (line, "$text-accent")) for line in EXAMPLES),
            ]
        else:
            lines = [Content.styled(self.model, "bold $primary"), Content(), self._description()]
        return Content("\n").join(lines)

    def _description(self) -> Content:
        ready = self.session.ready
        if not ready:
            return Content.styled(plain(str(self.session.to_load.path)), FAINT)
        return Content(
            f"{ready.architecture} with {short(ready.parameters)} parameters, "
            f"{size(ready.bytes)} of weights, read in {duration(ready.seconds)}.\n"
            f"It runs on {ready.device} and keeps {ready.context:,} tokens in view."
            + (f"\n{ready.remark}" if ready.remark else "")
        )


class Help(ModalScreen[None]):
    """Keys, commands and figures, as wide as there is room."""

    BINDINGS = [Binding("escape,f1,q,enter", "dismiss", "Close")]

    def compose(self) -> ComposeResult:
        """One scrollable page."""
        with VerticalScroll(id="help") as page:
            page.border_title = "Help"
            page.border_subtitle = "↑ ↓ PgUp PgDn scroll · Esc closes"
            yield HelpPage()


class HelpPage(Static):
    """The table of everything."""

    def on_resize(self, event: events.Resize) -> None:
        """Lines are broken under their own column."""
        parts = []
        for subject, actions in SUBJECTS.items():
            rows = [(action.key, action.usage, action.help) for action in actions]
            parts.append(_table(subject.capitalize(), rows, (8, 18), event.size.width))
        parts.append(_table("Palette", [PALETTE], (8, 18), event.size.width))
        parts.append(_table("Figures", FIGURES, (14,), event.size.width))
        self.update(Content("\n\n").join(parts))


def _table(
    title: str, rows: Sequence[Sequence[str]], columns: Sequence[int], width: int
) -> Content:
    beside = width - sum(columns) >= LEAST
    indent = sum(columns) if beside else 2
    lines = [Content.styled(title, "bold $primary")]
    for *names, text in rows:
        first, *rest = wrap(text, max(width - indent, 1)) or [""]
        cells = [
            (cell.ljust(column - 1) + " ", "$text-accent")
            for cell, column in zip(names, columns, strict=True)
        ]
        if beside:
            lines.append(Content.assemble(*cells, first))
        else:
            rest = [first, *rest]
            lines.append(Content.assemble(*cells).rstrip())
        lines += [Content(" " * indent + line) for line in rest]
    return Content("\n").join(lines)
