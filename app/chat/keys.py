"""The registry's actions as Textual's key bindings, and the footer that shows them."""

from collections.abc import Iterable

from textual.app import ComposeResult
from textual.binding import Binding
from textual.widgets import Footer
from textual.widgets._footer import FooterKey

from .actions import ACTIONS, Action


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


class Keys(Footer):
    """The keys that count at this moment, few enough for 80 columns; a click presses one."""

    def __init__(self):
        super().__init__(show_command_palette=False)
        self.moment, self.actions = "", ()

    def show(self, moment: str, actions: Iterable[Action]) -> None:
        """Show what can be done now."""
        shown = tuple(action for action in actions if moment in action.footer.split())
        if (moment, shown) != (self.moment, self.actions):
            self.moment, self.actions = moment, shown
            self.refresh(recompose=True)

    def compose(self) -> ComposeResult:
        """One entry for each action."""
        for action in self.actions:
            key = (self.moment == "selecting" and action.letter) or action.keys.split(",")[0]
            display = self.app.get_key_display(Binding(key, action.name))
            # Not bound to the footer's data, which would keep every entry there ever was.
            entry = FooterKey(key, display, action.label, action.name, tooltip=action.help)
            entry.set_reactive(FooterKey.compact, False)
            yield entry
