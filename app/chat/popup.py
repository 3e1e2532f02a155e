"""The commands that fit what is being typed after a slash, above the input."""

from textual.content import Content
from textual.message import Message
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from .actions import Action, commands
from .theme import FAINT

COLUMN = 22  # cells for the command, before what it does


class CommandList(OptionList, can_focus=False):
    """Shown while a command is typed; the input hands it the keys that choose."""

    def __init__(self):
        super().__init__(id="commands")
        self.text = ""  # of the input
        self.found: list[Action] = []
        self.closed = False  # by the person, until another command is begun

    class Chosen(Message):
        """A command was chosen, or shall only be completed in the input."""

        def __init__(self, action: Action, *, complete: bool):
            super().__init__()
            self.action, self.complete = action, complete

    def follow(self, text: str) -> None:
        """Bring the list up to what is in the input."""
        self.text = text
        begun = text.startswith("/") and not text.startswith("//") and "\n" not in text
        self.closed = self.closed and begun
        word, space, _ = text[1:].partition(" ")
        found = commands(word) if begun else []
        if space:  # what follows is being typed: a reminder of what it is
            found = [action for action in found if action.slash == word and action.argument]
        self.found = [action for action in found if self.app.check_action(action.name, ())]
        self.display = bool(self.found) and not self.closed
        self.clear_options()
        self.add_options(Option(_line(action)) for action in self.found)
        self.highlighted = 0 if self.found else None

    def press(self, key: str, text: str) -> bool:
        """Take a key that was pressed in the input; False if it is none of the list's."""
        if text != self.text:  # typed in a burst
            self.follow(text)
        if not self.display or self.highlighted is None:
            return False
        action = self.found[self.highlighted]
        if key == "up":
            self.action_cursor_up()
        elif key == "down":
            self.action_cursor_down()
        elif key == "escape":
            self.closed, self.display = True, False
        elif key == "tab":
            self.post_message(self.Chosen(action, complete=True))
        elif key == "enter" and " " not in text and text != f"/{action.slash}":
            self.post_message(self.Chosen(action, complete=False))
        else:
            return False
        return True

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """A click."""
        event.stop()
        self.post_message(self.Chosen(self.found[event.option_index], complete=False))


def _line(action: Action) -> Content:
    usage = Content.assemble((f"/{action.slash}", "$text-accent"), (f" {action.argument}", FAINT))
    gap = " " * max(COLUMN - usage.cell_length, 1)
    return Content.assemble(usage, gap, (action.help, FAINT))
