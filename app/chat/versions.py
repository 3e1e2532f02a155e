"""What is written under a message: which version it is, and what can be done with it."""

from textual.content import Content
from textual.message import Message
from textual.widgets import Static

from .actions import ACTIONS
from .transcript import Part, Turn

EARLIER, LATER = "\u2039", "\u203a"  # arrows


class Versions(Static):
    """`2 of 3` between two arrows where a message has several versions; a click turns."""

    ALLOW_SELECT = False

    class Turned(Message):
        """Another version is wanted: so many further."""

        def __init__(self, turn: Turn, part: Part, step: int):
            super().__init__()
            self.turn, self.part, self.step = turn, part, step

    def __init__(self, turn: Turn, part: Part):
        super().__init__(classes="versions")
        self.turn, self.part, self.display = turn, part, False

    def show(self, versions: list[Turn]) -> None:
        """Which of them this is."""
        self.display = len(versions) > 1
        if self.display:
            place = versions.index(self.turn)
            self.update(
                Content.assemble(
                    _arrow(EARLIER, "earlier", place > 0),
                    f" {place + 1} of {len(versions)} ",
                    _arrow(LATER, "later", place + 1 < len(versions)),
                )
            )

    def action_earlier(self) -> None:
        """A click on the first arrow."""
        self.post_message(self.Turned(self.turn, self.part, -1))

    def action_later(self) -> None:
        """A click on the second one."""
        self.post_message(self.Turned(self.turn, self.part, 1))


def _arrow(arrow: str, action: str, there: bool) -> Content:
    style = f"$text-accent @click={action}" if there else "dim"
    return Content.from_markup(f"[{style}]{arrow}[/]")


class Choices(Static):
    """What can be done with the selected message: by click, by letter if the keys go there."""

    ALLOW_SELECT = False

    def __init__(self):
        super().__init__(classes="choices")
        self.display = False

    def show(self, *, letters: bool) -> None:
        """What is possible now."""
        self.display = True
        possible = [
            action
            for action in ACTIONS
            if len(action.letter) == 1 and self.app.check_action(action.name, ())
        ]
        pieces = [
            Content.from_markup(
                f"[@click=act('{one.name}')][$text-accent]{one.letter}[/] {one.label}[/]"
                if letters
                else f"[@click=act('{one.name}')]{one.label}[/]"
            )
            for one in possible
        ]
        self.update(Content("   ").join(pieces))

    def on_show(self) -> None:
        """It has its place now: below its message, and so the end of one that is long."""
        self.call_after_refresh(self.scroll_visible, animate=False, immediate=True)

    def action_act(self, name: str) -> None:
        """A click: the app acts, which would wait for ever for whom it has to remove."""
        self.app.call_later(self.app.run_action, name)
