"""The conversations so far: looked through, opened, renamed, exported and deleted."""

import time
from functools import partial
from pathlib import Path

from textual import getters, on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Footer, Input, OptionList, Static
from textual.widgets.option_list import Option

from mlxarch.files import local

from ..history import FOUND, History, HistoryError, Summary
from ..history.export import FORMATS, file_name
from ..history.held import Held
from .base import Base, Refused, brief
from .choice import Choice, Line
from .theme import FAINT
from .transcript import plain

DAY = 86_400  # seconds
DELETE = [("delete", "Delete for good"), ("", "Keep")]


class Sessions(ModalScreen[str | None]):
    """A list that one can search; returns the id of the conversation to open.

    Args:
        here: The id of the conversation that is open.
    """

    BINDINGS = [
        Binding("enter", "open", "Open", priority=True),
        Binding("up", "move(-1)", "Up", show=False),
        Binding("down", "move(1)", "Down", show=False),
        Binding("pageup", "move(-8)", "Up", show=False),
        Binding("pagedown", "move(8)", "Down", show=False),
        Binding("ctrl+r", "rename", "Rename", priority=True),
        Binding("ctrl+s", "export", "Export", priority=True),
        Binding("ctrl+d", "delete", "Delete", priority=True),
        Binding("escape", "dismiss", "Back"),
    ]

    app = getters.app(Base)

    def __init__(self, history: History, here: str, query: str = ""):
        super().__init__()
        self.history, self.here, self.first = history, here, query
        self.found: list[Summary] = []

    def compose(self) -> ComposeResult:
        """A line to search with, and the list."""
        with Vertical(classes="box tall") as box:
            box.border_title = "Conversations"
            yield Input(self.first, placeholder='Search for words, also "together"', id="query")
            yield OptionList(id="found")
            yield Static(classes="text", id="none")
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Start with all of them."""
        self.found_list.can_focus = False
        self.look()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool:
        """Where nothing was found, nothing can be done with it."""
        return bool(self.found) or action not in ("open", "rename", "export", "delete")

    def elsewhere(self) -> set[str]:
        """The conversations that other windows have open, this one's perhaps among them."""
        return Held(self.history.path).elsewhere()

    @property
    def found_list(self) -> OptionList:
        """What was found, on the screen."""
        return self.query_one("#found", OptionList)

    @property
    def chosen(self) -> Summary | None:
        """The highlighted one."""
        place = self.found_list.highlighted
        return self.found[place] if place is not None else None

    @on(Input.Changed, "#query")
    def look(self) -> None:
        """Look for what is typed."""
        query = self.query_one("#query", Input).value.strip()
        place = self.found_list.highlighted or 0
        try:
            self.found = self.history.sessions(query)
        except HistoryError as error:
            self.found = []
            self.app.say(str(error), warning=True)
        none = self.query_one("#none", Static)
        none.display = not self.found
        none.update(Content("No conversation has all of these words." if query else "None so far."))
        self.found_list.clear_options()
        width = max(self.app.size.width * 9 // 10 - 8, 30)
        opened = dict.fromkeys(self.elsewhere(), "open in another window")
        opened[self.here] = "open now"
        self.found_list.add_options(
            Option(_lines(one, width, opened.get(one.id, ""))) for one in self.found
        )
        self.found_list.highlighted = min(place, len(self.found) - 1) if self.found else None
        self.refresh_bindings()

    def action_move(self, step: int) -> None:
        """Highlight another one."""
        place = self.found_list.highlighted
        if place is not None:
            self.found_list.highlighted = max(0, min(place + step, len(self.found) - 1))

    def action_open(self) -> None:
        """Open it."""
        if self.chosen:
            self.dismiss(self.chosen.id)

    @on(OptionList.OptionSelected)
    def click(self, event: OptionList.OptionSelected) -> None:
        """A click opens, too."""
        self.dismiss(self.found[event.option_index].id)

    def action_rename(self) -> None:
        """Give it another title."""
        if one := self.chosen:
            box = Line("Rename", "Empty: the beginning of its first question.", one.title)
            self.app.push_screen(box, partial(self._rename, one.id))

    def _rename(self, session: str, title: str | None) -> None:
        if title is not None:
            self.history.rename(session, title)
            self.look()

    def action_export(self) -> None:
        """Write it to a file."""
        if one := self.chosen:
            ask_where(self.app, self.history, one.id)

    def action_delete(self) -> None:
        """Delete it, once the person has agreed."""
        if (one := self.chosen) and one.id == self.here:
            self.app.say("This conversation is open; /delete deletes it.", warning=True)
        elif one and one.id in self.elsewhere():
            self.app.say("Another window has it open; there, /delete deletes it.", warning=True)
        elif one:
            box = Choice("Delete", f"Delete the conversation “{one.title}”?", DELETE)
            self.app.push_screen(box, partial(self._delete, one.id))

    def _delete(self, session: str, answer: str | None) -> None:
        if answer:
            self.history.delete(session)
            self.look()


def ask_where(app: Base, history: History, session: str) -> None:
    """Ask for the file to export to, and write it."""
    try:
        name = free(Path(file_name(history.load(session), "md"))).name
    except HistoryError as error:  # another window has deleted it
        app.say(f"Not exported: {error}", warning=True)
        return
    box = Line("Export", "Its ending says how: .md, .html or .json (all branches).", name)
    app.push_screen(box, lambda path: path and _export(app, history, session, path))


def _export(app: Base, history: History, session: str, path: str) -> None:
    try:
        app.say(export(history, session, path))
    except Refused as why:
        app.say(str(why), warning=True)


def export(history: History, session: str, path: str) -> str:
    """Write a conversation to a new file; what to tell the person.

    Of a format alone, such as "md", the file is named after the conversation.

    Raises: Refused if there is no such file then.
    """
    try:
        said = history.load(session)
        file = free(Path(file_name(said, path))) if path in FORMATS else local(path)
        form = file.suffix.removeprefix(".").lower()
        if form not in FORMATS:
            wanted = ", ".join(f".{each}" for each in FORMATS)
            raise Refused(f"{brief(str(file))} ends in {brief(file.suffix)!r}; wanted is {wanted}.")
        with file.open("x", encoding="utf-8") as opened:
            opened.write(FORMATS[form](said, history.images))
    except FileExistsError:
        raise Refused(f"{file} is there already and stays; {free(file)} is free.") from None
    except (OSError, HistoryError) as error:
        raise Refused(f"Not exported: {error}") from error
    return f"Written to {file}."


def free(file: Path) -> Path:
    """The file itself, or the next name that is not taken: `a-2.md`."""
    number, name = 1, file
    while name.exists():
        number += 1
        name = file.with_stem(f"{file.stem}-{number}")
    return name


def when(seconds: float, now: float) -> str:
    """A moment as people remember it: `14:05`, `Tue 14:05`, `3 Nov`, `3 Nov 2025`."""
    then, today = time.localtime(seconds), time.localtime(now)
    if then[:3] == today[:3]:
        return time.strftime("%H:%M", then)
    if 0 <= now - seconds < 6 * DAY:
        return time.strftime("%a %H:%M", then)
    return f"{then.tm_mday} {time.strftime('%b' if then[0] == today[0] else '%b %Y', then)}"


def _lines(one: Summary, width: int, opened: str) -> Content:
    """Title and moment, then model, size and what was found."""
    moment = when(one.updated, time.time())
    title = plain(one.title).replace("\n", " ")[: width - len(moment) - 2]
    head = Content.assemble(
        (title, "bold"), " " * (width - len(title) - len(moment)), (moment, FAINT)
    )
    count = f"{one.messages} message{'' if one.messages == 1 else 's'}"
    parts = [plain(one.model), count, opened]
    below = Content.styled(" · ".join(part for part in parts if part), FAINT)
    if one.snippet:
        below = Content.assemble(below, "  ", _marked(one.snippet))
    return Content("\n").join([head, below.truncate(width, ellipsis=True)])


def _marked(snippet: str) -> Content:
    """A snippet with the words that were found."""
    pieces = []
    for place, part in enumerate(snippet.replace("\n", " ").split(FOUND[0])):
        word, mark, rest = part.partition(FOUND[1])
        pieces += [(plain(word), "$text-accent" if place and mark else ""), plain(rest)]
    return Content.assemble(*pieces)
