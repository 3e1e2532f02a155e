"""Small questions over the conversation: one of several things, or a line of text."""

from collections.abc import Sequence

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from .transcript import plain


class Choice(ModalScreen[str | None]):
    """Asks which of several things to do; None if none of them.

    Args:
        options: What is returned, and what the person reads for it.
    """

    BINDINGS = [Binding("escape", "dismiss", "Leave it")]

    def __init__(self, title: str, text: str, options: Sequence[tuple[str, str]]):
        super().__init__()
        self.question, self.text, self.options = title, plain(text), list(options)

    def compose(self) -> ComposeResult:
        """A box with a list."""
        with Vertical(classes="box") as box:
            box.border_title = self.question
            box.border_subtitle = "↑ ↓ Enter choose · Esc leaves it"
            if self.text:
                yield Static(Content(self.text), classes="text")
            yield OptionList(*(Option(Content(plain(text))) for _, text in self.options))

    @on(OptionList.OptionSelected)
    def choose(self, event: OptionList.OptionSelected) -> None:
        """Enter, or a click."""
        self.dismiss(self.options[event.option_index][0])


class Line(ModalScreen[str | None]):
    """Asks for a line of text; None if there is none."""

    BINDINGS = [Binding("escape", "dismiss", "Leave it")]

    def __init__(self, title: str, text: str, value: str):
        super().__init__()
        self.question, self.text, self.value = title, plain(text), value

    def compose(self) -> ComposeResult:
        """A box with an input."""
        with Vertical(classes="box") as box:
            box.border_title = self.question
            box.border_subtitle = "Enter takes it · Esc leaves it"
            if self.text:
                yield Static(Content(self.text), classes="text")
            yield Input(self.value)

    @on(Input.Submitted)
    def take(self, event: Input.Submitted) -> None:
        """Enter."""
        self.dismiss(event.value)
