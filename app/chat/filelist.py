"""The files that fit what is being typed after an @, above the input."""

from textual.content import Content
from textual.message import Message
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from .references import offers, typed
from .transcript import plain


class FileList(OptionList, can_focus=False):
    """Shown while a path is typed; the input hands it the keys that choose."""

    def __init__(self):
        super().__init__(id="files")
        self.found: list[str] = []
        self.closed: str | None = None  # what was typed when the person closed it

    class Chosen(Message):
        """A file was chosen, or a folder to look into."""

        def __init__(self, path: str):
            super().__init__()
            self.path = path

    def follow(self, before: str) -> None:
        """Bring the list up to what stands before the cursor."""
        beginning = typed(before)
        if beginning != self.closed:
            self.closed = None
        found = offers(beginning) if beginning is not None and self.closed is None else []
        # A path that is whole needs no list.
        self.found = [] if found == [beginning] else found
        self.display = bool(self.found)
        self.clear_options()
        self.add_options(Option(Content(plain(path))) for path in self.found)
        self.highlighted = 0 if self.found else None

    def press(self, key: str, before: str) -> bool:
        """Take a key that was pressed in the input; False if it is none of the list's."""
        if not self.display or self.highlighted is None:
            return False
        if key == "up":
            self.action_cursor_up()
        elif key == "down":
            self.action_cursor_down()
        elif key == "escape":
            self.closed, self.display = typed(before), False
        elif key in ("tab", "enter"):
            self.post_message(self.Chosen(self.found[self.highlighted]))
        else:
            return False
        return True

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """A click."""
        event.stop()
        self.post_message(self.Chosen(self.found[event.option_index]))
