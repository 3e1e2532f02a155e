"""The registry's actions as Textual's key bindings, and the footer that shows them."""

from collections.abc import Iterable
from itertools import accumulate
from typing import NamedTuple

from rich.cells import cell_len
from textual import events
from textual.binding import Binding
from textual.content import Content

from .actions import ACTIONS, Action
from .lines import Growing

# Where there is no room for all: the first to be left out, which F1 and the list of commands have.
SPARED = ("new", "newline", "sessions", "models", "commands", "quit")
GAPS = 3  # cells: before a key, after it and after its label


def bindings() -> list[Binding]:
    """The keys of all actions; only quitting comes before whatever has the focus."""
    return [
        Binding(
            action.keys,
            action.name,
            action.label,
            show=False,
            priority=action.name == "quit",
            tooltip=action.help,
            id=action.name,
            system=action.name == "interrupt",
        )
        for action in ACTIONS
        if action.keys
    ]


def letters() -> list[Binding]:
    """What single keys do while a message is selected."""
    return [
        Binding(action.letter, f"app.{action.name}", action.label, show=False)
        for action in ACTIONS
        if action.letter
    ]


class Entry(NamedTuple):
    """A key, and what it does."""

    key: str
    shown: str
    action: Action

    @property
    def width(self) -> int:
        """Cells."""
        return cell_len(self.shown) + cell_len(self.action.label) + GAPS


class Keys(Growing):
    """The keys that count at this moment, as many as there is room for; a click presses one.

    One widget: each there is makes drawing slower.
    """

    ALLOW_SELECT = False
    COMPONENT_CLASSES = {"keys--key", "keys--label", "keys--under"}

    def __init__(self):
        super().__init__()
        self.moment, self.possible = "", ()
        self.entries: list[Entry] = []
        self.under: Entry | None = None  # the mouse

    def show(self, moment: str, actions: Iterable[Action]) -> None:
        """Show what can be done now."""
        self.moment = moment
        self.possible = tuple(action for action in actions if moment in action.footer.split())
        entries, room = [self._entry(action) for action in self.possible], self.app.size.width
        for name in SPARED:
            if sum(entry.width for entry in entries) <= room:
                break
            entries = [entry for entry in entries if entry.action.name != name]
        if entries != self.entries:
            self.entries = entries
            self._point(None)
            self.refresh()

    def on_resize(self) -> None:
        """There may be room for others."""
        self.show(self.moment, self.possible)

    def _entry(self, action: Action) -> Entry:
        key = (self.moment == "selecting" and action.letter) or action.keys.split(",")[0]
        return Entry(key, self.app.get_key_display(Binding(key, action.name)), action)

    def render(self) -> Content:
        """One entry after another."""
        return Content("").join([self._drawn(entry) for entry in self.entries])

    def _drawn(self, entry: Entry) -> Content:
        drawn = Content.assemble(
            (f" {entry.shown} ", ".keys--key"), (f"{entry.action.label} ", ".keys--label")
        )
        return drawn.stylize_before(".keys--under") if entry is self.under else drawn

    def _point(self, entry: Entry | None) -> None:
        """The mouse is at an entry, or at none."""
        if entry is not self.under:
            self.under = entry
            self.tooltip = entry.action.help if entry else None
            self.styles.pointer = "pointer" if entry else "default"
            self.refresh()

    def _at(self, x: int) -> Entry | None:
        """The entry in a cell."""
        ends = accumulate(entry.width for entry in self.entries)
        pairs = zip(self.entries, ends, strict=True)
        return next((entry for entry, end in pairs if x < end), None)

    def on_mouse_move(self, event: events.MouseMove) -> None:
        """What a click would press stands out."""
        self._point(self._at(event.x))

    def on_leave(self) -> None:
        """The mouse is elsewhere."""
        self._point(None)

    def on_mouse_down(self, event: events.MouseDown) -> None:
        """Press the key."""
        if entry := self._at(event.x):
            self.app.simulate_key(entry.key)
