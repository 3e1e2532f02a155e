"""The commands that fit what is being typed after a slash, above the input, then their words."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from textual.content import Content
from textual.message import Message
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from .actions import Action, commands
from .theme import FAINT
from .transcript import plain

COLUMN = 22  # cells for the command, before what it does
AT_ONCE = 50  # words that are offered


class Word(NamedTuple):
    """One of those that may follow a command."""

    text: str
    help: str
    open: bool = False  # something has to follow it in turn


class Line(NamedTuple):
    """What a line of the list makes of the input, and how it looks."""

    text: str
    open: bool  # something has to follow
    shown: Content


class CommandList(OptionList, can_focus=False):
    """Shown while a command is typed; the input hands it the keys that choose.

    Args:
        words: What may follow a command, by its `Action.among` and what is typed of it.
    """

    def __init__(self, words: Callable[[str, str], Iterable[Word]]):
        super().__init__(id="commands")
        self.words = words
        self.text = ""  # of the input
        self.found: list[Line] = []
        self.closed = False  # by the person, until another command is begun

    class Chosen(Message):
        """A command was chosen, or shall only be completed in the input."""

        def __init__(self, line: Line, *, complete: bool):
            super().__init__()
            self.line, self.complete = line, complete

    def follow(self, text: str) -> None:
        """Bring the list up to what is in the input."""
        self.text = text
        begun = text.startswith("/") and not text.startswith("//") and "\n" not in text
        self.closed = self.closed and begun
        self.found = self._fitting(text) if begun else []
        self.display = bool(self.found) and not self.closed
        self.clear_options()
        self.add_options(Option(line.shown) for line in self.found)
        self.highlighted = 0 if self.found else None

    def _fitting(self, text: str) -> list[Line]:
        word, space, typed = text[1:].partition(" ")
        known = [action for action in commands(word) if self.app.check_action(action.name, ())]
        if not space:
            return [_command(action) for action in known]
        action = next((one for one in known if one.slash == word and one.argument), None)
        if action is None:
            return []
        lines = [
            _line(f"/{word} {one.text}", one) for one in self._matching(action, typed.lstrip())
        ]
        # What follows is one's own: a reminder of what it is.
        alone = not lines or not (typed or action.needs)
        return [_command(action)._replace(text=text)] * alone + lines

    def _matching(self, action: Action, typed: str) -> list[Word]:
        """Those that contain what was typed, first those that begin so."""
        sought = typed.lower()
        found = [one for one in self.words(action.among, typed) if sought in one.text.lower()]
        return sorted(found, key=lambda one: one.text.lower().find(sought))[:AT_ONCE]

    def press(self, key: str, text: str) -> bool:
        """Take a key that was pressed in the input; False if it is none of the list's."""
        if text != self.text:  # typed in a burst
            self.follow(text)
        if not self.display or self.highlighted is None:
            return False
        line = self.found[self.highlighted]
        if key == "up":
            self.action_cursor_up()
        elif key == "down":
            self.action_cursor_down()
        elif key == "escape":
            self.closed, self.display = True, False
        elif key == "tab":
            self.post_message(self.Chosen(line, complete=True))
        elif key == "enter" and text.strip() != line.text.strip():
            self.post_message(self.Chosen(line, complete=False))
        else:
            return False
        return True

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """A click."""
        event.stop()
        self.post_message(self.Chosen(self.found[event.option_index], complete=False))


def _command(action: Action) -> Line:
    usage = Content.assemble((f"/{action.slash}", "$text-accent"), (f" {action.argument}", FAINT))
    text = f"/{action.slash}{' ' if action.argument else ''}"
    return Line(text, action.needs, _shown(usage, action.help))


def _line(text: str, word: Word) -> Line:
    name = Content.styled(plain(word.text), "$text-accent")
    return Line(f"{text} " if word.open else text, word.open, _shown(name, plain(word.help)))


def _shown(name: Content, help: str) -> Content:
    gap = " " * max(COLUMN - name.cell_length, 1)
    return Content.assemble(name, gap, (help, FAINT))
