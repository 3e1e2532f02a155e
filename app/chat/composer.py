"""The input: many lines, as tall as its text up to eight."""

from textual import events
from textual.binding import Binding
from textual.message import Message
from textual.widgets import TextArea

from .actions import NEWLINE, SEND
from .popup import CommandList
from .transcript import plain

PLACEHOLDER = "Ask something. Enter sends, Ctrl+J begins a new line, / a command."
TAKEN = {"pageup", "pagedown", "ctrl+y,super+y"}  # the app's, see `actions.py`


class Composer(TextArea, inherit_bindings=False):
    """Where the next question is written.

    It acts on Enter and its like itself: a binding of the app would overtake letters that were
    typed just before and still wait in this widget's queue.
    """

    BINDINGS = [
        *(own for own in TextArea.BINDINGS if isinstance(own, Binding) and own.key not in TAKEN),
        Binding("ctrl+shift+z,super+y", "redo", "Redo", show=False),
    ]

    def __init__(self, commands: CommandList):
        super().__init__(
            id="composer",
            placeholder=PLACEHOLDER,
            highlight_cursor_line=False,
            soft_wrap=True,
        )
        self.commands = commands

    class Sent(Message):
        """Enter was pressed; the input is empty again, or as it was if nothing can be sent."""

        def __init__(self, text: str):
            super().__init__()
            self.text = text

    class Commanded(Message):
        """A command was entered; the input is empty again."""

        def __init__(self, text: str):
            super().__init__()
            self.text = text

    class Refused(Message):
        """Enter was pressed while nothing can be sent."""

    async def _on_key(self, event: events.Key) -> None:
        if self.commands.press(event.key, self.text):
            pass
        elif event.key in SEND:
            self.send()
        elif event.key in NEWLINE:
            self.break_line()
        elif event.key == "up" and not self.text:
            self.screen.focus_previous()  # the messages
        else:
            return  # to the base, which sees every key that is not prevented
        event.stop()
        event.prevent_default()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """In an empty input the keys for its end are somebody else's."""
        return action != "cursor_line_end" or bool(self.text)

    async def _on_paste(self, event: events.Paste) -> None:
        event.text = plain(event.text)

    def send(self) -> None:
        """Hand the text over, if it can be sent now; a command always can."""
        if self.text.startswith("/") and not self.text.startswith("//"):
            text = self.text.strip()
            self.clear()
            self.post_message(self.Commanded(text))
        elif not self.app.check_action("send", ()):
            self.post_message(self.Refused())
        elif text := self.text.strip():
            self.clear()
            self.post_message(self.Sent(text.removeprefix("/") if text[:2] == "//" else text))

    def break_line(self) -> None:
        """A new line where the cursor is."""
        self.replace("\n", *self.selection)

    def rewrite(self, text: str) -> None:
        """Another text in the input's place."""
        self.text = text
        self.move_cursor(self.document.end)

    def put_back(self, text: str) -> None:
        """Give a text back, before whatever has been written since."""
        self.insert(f"{text}\n" if self.text else text, (0, 0))
        self.move_cursor(self.document.end)
