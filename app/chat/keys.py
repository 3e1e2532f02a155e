"""The registry's actions as Textual's key bindings, and the footer that shows them."""

from collections.abc import Iterable

from rich.cells import cell_len
from textual.app import ComposeResult
from textual.binding import Binding
from textual.widgets import Footer
from textual.widgets._footer import FooterKey

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


class Entry(FooterKey, Growing):
    """A key and what it does."""


class Keys(Footer):
    """The keys that count at this moment, as many as there is room for; a click presses one."""

    def __init__(self):
        super().__init__(show_command_palette=False)
        self.moment, self.possible, self.actions = "", (), ()

    def show(self, moment: str, actions: Iterable[Action]) -> None:
        """Show what can be done now."""
        self.possible = tuple(action for action in actions if moment in action.footer.split())
        shown, room = self.possible, self.app.size.width
        for name in SPARED:
            if sum(self._width(moment, action) for action in shown) <= room:
                break
            shown = tuple(action for action in shown if action.name != name)
        if (moment, shown) != (self.moment, self.actions):
            self.moment, self.actions = moment, shown
            self.refresh(recompose=True)

    def on_resize(self) -> None:
        """There may be room for others."""
        self.show(self.moment, self.possible)

    def _named(self, moment: str, action: Action) -> tuple[str, str]:
        """The key, and what is shown of it."""
        key = (moment == "selecting" and action.letter) or action.keys.split(",")[0]
        return key, self.app.get_key_display(Binding(key, action.name))

    def _width(self, moment: str, action: Action) -> int:
        return cell_len(self._named(moment, action)[1]) + cell_len(action.label) + GAPS

    def compose(self) -> ComposeResult:
        """One entry for each action."""
        for action in self.actions:
            key, display = self._named(self.moment, action)
            # Not bound to the footer's data, which would keep every entry there ever was.
            entry = Entry(key, display, action.label, action.name, tooltip=action.help)
            entry.set_reactive(FooterKey.compact, False)
            yield entry
