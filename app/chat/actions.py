"""Everything a person can do, once: the keys, the footer, the palette and the help read this."""

from dataclasses import dataclass

from textual.binding import Binding


@dataclass(frozen=True)
class Action:
    """One thing to do; `ChatApp` has a method `action_<name>` for it."""

    name: str
    keys: str
    label: str
    help: str
    footer: bool = True
    palette: bool = True

    def binding(self) -> Binding:
        """The key binding; only quitting comes before whatever has the focus."""
        return Binding(
            self.keys,
            self.name,
            self.label,
            show=self.footer,
            priority=self.name == "quit",
            tooltip=self.help,
            id=self.name,
        )


ACTIONS = (
    Action("send", "enter", "Send", "Send what is in the input", palette=False),
    Action("stop", "escape", "Stop", "Stop the answer, also while the prompt is being read"),
    Action(
        "newline",
        "ctrl+j,shift+enter,alt+enter",
        "New line",
        "Begin a new line (in some terminals Shift+Enter, too)",
        palette=False,
    ),
    Action("restart", "ctrl+r", "Restart", "Start the engine again and load the model"),
    Action("copy", "ctrl+y", "Copy", "Copy the last answer, as Markdown"),
    Action("thinking", "ctrl+t", "Thinking", "Show or hide what the model thought", footer=False),
    Action("new", "ctrl+n", "New", "Begin a new conversation"),
    Action("page_up", "pageup", "Up", "Scroll the conversation up", footer=False, palette=False),
    Action("page_down", "pagedown", "Down", "Scroll down", footer=False, palette=False),
    Action("help", "f1", "Help", "Show the keys and what the figures mean"),
    Action("quit", "ctrl+q", "Quit", "End the chat"),
)

SEND, NEWLINE = (action.keys.split(",") for action in ACTIONS if action.name in ("send", "newline"))
