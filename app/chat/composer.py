"""The input: many lines, as tall as its text up to eight."""

from textual import events, on
from textual.binding import Binding
from textual.message import Message
from textual.widgets import TextArea

from .actions import NEWLINE, SEND
from .filelist import FileList
from .pastes import Pastes
from .popup import CommandList
from .recall import Recall
from .references import typed, written
from .transcript import plain

PLACEHOLDER = "Ask something. Enter sends, Ctrl+J a new line, / commands, @ files."
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

    def __init__(self, commands: CommandList, files: FileList):
        super().__init__(
            id="composer",
            placeholder=PLACEHOLDER,
            highlight_cursor_line=False,
            soft_wrap=True,
        )
        self.commands, self.files = commands, files
        self.pastes, self.recall = Pastes(), Recall()

    class Sent(Message):
        """Enter was pressed; the input is empty again. It may have been empty before."""

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
        if self.commands.press(event.key, self.text) or self.files.press(event.key, self.before):
            pass
        elif event.key in SEND:
            self.send()
        elif event.key in NEWLINE:
            self.break_line()
        elif not (self._recalls(event.key) or self._deletes_paste(event.key)):
            return  # to the base, which sees every key that is not prevented
        event.stop()
        event.prevent_default()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """In an empty input the keys for its end are somebody else's."""
        return action != "cursor_line_end" or bool(self.text)

    async def _on_paste(self, event: events.Paste) -> None:
        # Terminals send a line's end as Enter would.
        lines = event.text.replace("\r\n", "\n").replace("\r", "\n")
        event.text = self.pastes.taken(plain(lines))

    @property
    def whole(self) -> str:
        """What is written, with long pastes in full."""
        return self.pastes.whole(self.text)

    @property
    def before(self) -> str:
        """What stands before the cursor."""
        return self.get_text_range((0, 0), self.cursor_location)

    @on(TextArea.Changed)
    def offer_files(self) -> None:
        """Files are listed as one types."""
        self.files.follow(self.before)

    def take_file(self, path: str) -> None:
        """Put a file's path in the place of what was typed of it."""
        row, column = self.cursor_location
        beginning = typed(self.before) or ""
        start = (
            column - len(beginning) - (1 if self.before[column - len(beginning) - 1] == '"' else 0)
        )
        end = "" if path.endswith("/") else " "
        self.replace(f"{written(path)[1:]}{end}", (row, start), (row, column))

    def _recalls(self, key: str) -> bool:
        """Up at the beginning and Down at the end go through what was sent before."""
        if key == "up" and self.cursor_at_first_line:
            text = self.recall.earlier(self.text)
        elif key == "down" and self.cursor_at_last_line:
            text = self.recall.later(self.text)
        else:
            return False
        if text is not None:
            self.rewrite(text)
        return text is not None

    def _deletes_paste(self, key: str) -> bool:
        """Backspace takes a paste's mark away whole."""
        if key != "backspace" or not self.selection.is_empty:
            return False
        if not (mark := self.pastes.mark_before(self.before)):
            return False
        row, column = self.cursor_location
        self.delete((row, column - len(mark)), (row, column))
        return True

    def type(self, text: str) -> None:
        """Put letters where the cursor is; at the end of each line Enter was pressed."""
        *lines, rest = text.split("\n")
        for line in lines:
            self.insert(line)
            self.send()
        self.insert(rest)

    def send(self) -> None:
        """Hand the text over, if it can be sent now; a command always can."""
        if self.text.startswith("/") and not self.text.startswith("//"):
            text = self.text.strip()
            self._empty(text)
            self.post_message(self.Commanded(text))
        elif not any(self.app.check_action(name, ()) for name in ("send", "queue")):
            self.post_message(self.Refused())
        else:
            if text := self.whole.strip():
                self._empty(text)
            self.post_message(self.Sent(text.removeprefix("/") if text[:2] == "//" else text))

    def _empty(self, sent: str) -> None:
        self.rewrite(self.recall.add(sent))

    def break_line(self) -> None:
        """A new line where the cursor is."""
        self.replace("\n", *self.selection)

    def rewrite(self, text: str) -> None:
        """Another text in the input's place; Ctrl+Z brings back what was there."""
        self.replace(text, (0, 0), self.document.end, maintain_selection_offset=False)

    def put_back(self, text: str) -> None:
        """Give a text back, before whatever has been written since."""
        self.insert(f"{text}\n" if self.text else text, (0, 0))
        self.move_cursor(self.document.end)
