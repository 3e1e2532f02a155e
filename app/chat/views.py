"""How the entries of a transcript look."""

from textual import events
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Static

from ..attachment import File, Image, folded
from .answer import Answer
from .calls import Calls
from .details import Figures
from .figures import tokens
from .lines import Growing, Holding
from .theme import FAINT
from .tokens import TokenText
from .transcript import PARTS, Failure, Part, Turn
from .versions import Choices, Versions

COLOURED = "-coloured"  # the class of a page whose answers are shown token by token
THINKING_LINES = 3  # of what is being thought
THINKING_TAIL = 600  # characters they are cut from


class Thinking(Static):
    """What the model thought before it answered: the last lines while it does, then one line."""

    def __init__(self, turn: Turn):
        super().__init__(classes="thinking")
        self.turn, self.open = turn, False
        self.display, self.shown = False, Content()

    def show(self) -> None:
        """Follow the turn."""
        turn = self.turn
        self.display = bool(turn.thinking.strip())
        if not self.display:
            return
        under_way = turn.running and not turn.text
        head = f"Thinking · {tokens(turn.thoughts)}" if under_way else self._head()
        lines = [Content.styled(head, "italic")]
        if self.open:
            lines.append(Content(turn.thinking.strip()))
        elif under_way:
            tail = turn.thinking[-THINKING_TAIL:].strip().splitlines()[-THINKING_LINES:]
            lines.append(Content("\n".join(tail)))
        shown = Content("\n").join(lines)
        if not shown.is_same(self.shown):
            self.shown = shown
            self.update(shown)

    def _head(self) -> str:
        mark = "▾" if self.open else "▸"
        return f"{mark} Thought for {tokens(self.turn.thoughts)} · Ctrl+T"

    def toggle(self) -> None:
        """Show all of it, or one line."""
        self.open = not self.open
        self.show()

    def on_click(self, event: events.Click) -> None:
        """A click does the same."""
        event.stop()
        self.toggle()


class Question(Static, Growing):
    """What was asked."""


class TurnView(Vertical, Holding):
    """A question and its answer."""

    class Clicked(Message):
        """A message was clicked."""

        def __init__(self, turn: Turn, part: Part):
            super().__init__()
            self.turn, self.part = turn, part

    def __init__(self, turn: Turn):
        super().__init__(classes="turn")
        self.turn = self.entry = turn
        self.thinking = Thinking(turn)
        self.answer = Answer()
        self.calls = Calls()
        self.figures = Figures(turn)
        self.coloured: TokenText | None = None
        self.question = Question(_question(turn), classes="question")
        self.versions = {part: Versions(turn, part) for part in PARTS}
        self.choices = {part: Choices() for part in PARTS}
        asked, said = PARTS
        self.parts: list[Widget] = [self.question, self.versions[asked], self.choices[asked]]
        self.parts += [self.thinking, self.answer, self.calls, self.figures]
        self.parts += [self.versions[said], self.choices[said]]

    def compose(self) -> ComposeResult:
        """What every turn has; the other parts come when there is something in them."""
        yield self.question
        yield self.answer

    def _complete(self) -> None:
        """Mount what has something to show by now: each widget there is makes drawing slower."""
        following = None
        for part in reversed(self.parts):
            if part.display and not part.parent:
                self.mount(part, before=following)
            following = part if part.parent else following

    async def on_mount(self) -> None:
        """An entry from before is shown as it is."""
        self.show_versions()
        await self.colour(bool(self.parent and self.parent.has_class(COLOURED)))

    def show_versions(self) -> None:
        """Which version of the question this is, and which of the answer."""
        for part, versions in self.versions.items():
            versions.show(self.turn.versions(part))
        self._complete()

    def mark(self, part: Part | None, *, letters: bool) -> None:
        """Show one of the messages as selected, or none.

        Args:
            letters: Whether letters act on it: else they would be written into the input.
        """
        for one, choices in self.choices.items():
            self.set_class(one == part, f"-{one}")
            if one == part:
                choices.show(letters=letters)
            else:
                choices.display = False
        self._complete()

    def come_into_view(self, part: Part) -> None:
        """Scroll to a message; what can be done with it comes into view by itself."""
        message = self.question if part == "question" else self.answer
        self.call_after_refresh(message.scroll_visible, animate=False, immediate=True)

    def on_click(self, event: events.Click) -> None:
        """The question or the answer was meant; what was selected with the mouse is not."""
        if self.screen.get_selected_text() or isinstance(event.widget, Versions | Choices):
            return
        part: Part = "question" if event.widget is self.question else "answer"
        self.post_message(self.Clicked(self.turn, part))

    async def colour(self, on: bool) -> None:
        """Show the answer token by token, or as Markdown."""
        if on and not self.coloured:
            self.coloured = TokenText(self.turn)
            await self.mount(self.coloured, after=self.answer)
        elif self.coloured and not on:
            await self.coloured.remove()
            self.coloured = None
        await self.show()

    async def show(self) -> None:
        """Bring the widgets up to the turn."""
        turn = self.turn
        self.thinking.show()
        self.answer.display = self.coloured is None
        if self.coloured:
            self.coloured.relay()
        else:
            await self.answer.show(turn.text, running=turn.running)
        self.calls.show(turn.calls)
        self.figures.show()
        self._complete()


def _question(turn: Turn) -> Content:
    """What was asked, and the files that came along by their names."""
    asked, files = folded(turn.question)
    return Content("\n").join([Content(asked), *(_chip(file) for file in files)])


def _chip(file: File | Image) -> Content:
    if isinstance(file, Image):
        said = f"▣ {file.name} · {file.width:,} x {file.height:,} pixels · {tokens(file.tokens)}"
    else:
        said = f"▤ {file.name} · {file.characters:,} characters"
    return Content.styled(said, FAINT)


class FailureView(Static):
    """An error, with what to do about it."""

    def __init__(self, failure: Failure):
        parts = [Content.styled(failure.title, "bold $text-error")]
        parts += [Content(text) for text in (failure.message, failure.advice) if text]
        super().__init__(Content("\n").join(parts), classes="failure")
        self.entry = failure
