"""Questions that wait for the answer under way to end."""

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import Static

from .theme import FAINT
from .transcript import plain

NEXT = "Sent when the answer has ended"
FIRST = "Sent when the model is loaded"
HELD = "Waiting: Enter in the empty input sends the next one"


class Waiting(Static):
    """One of them: a click on its text takes it back into the input, one on the cross drops it."""

    ALLOW_SELECT = False

    class Touched(Message):
        """A person wants one back, or does not want it at all."""

        def __init__(self, place: int, *, edit: bool):
            super().__init__()
            self.place, self.edit = place, edit

    def __init__(self, place: int, text: str):
        line = " ".join(plain(text).split())
        super().__init__(classes="waiting")
        self.place, self.line = place, line

    def render(self) -> Content:
        """Its number, how it begins, and what can be done with it."""
        keys = Content.from_markup(
            "[$text-accent @click=edit]Edit[/]  [$text-accent @click=drop]Remove[/]"
        )
        room = max(self.size.width - keys.cell_length - 7, 8)
        line = self.line if len(self.line) <= room else self.line[: room - 1] + "…"
        return Content.assemble((f"{self.place + 1:2}. ", "dim"), line.ljust(room), "  ", keys)

    def action_edit(self) -> None:
        """Take it back into the input."""
        self.post_message(self.Touched(self.place, edit=True))

    def action_drop(self) -> None:
        """Leave it out."""
        self.post_message(self.Touched(self.place, edit=False))


class Queue(Vertical):
    """All of them, above the input; nothing, where none waits."""

    def __init__(self):
        super().__init__(id="queue")
        self.texts: list[str] = []
        self.held = False  # the answer was stopped or failed: nothing is sent unasked
        self.head = Static(classes="waiting")

    def compose(self) -> ComposeResult:
        """What happens to them, before the first one."""
        yield self.head

    async def show(self, *, held: bool, loading: bool) -> None:
        """Bring the lines up to `texts`."""
        self.held = held and bool(self.texts)
        self.display = bool(self.texts)
        head = HELD if self.held else FIRST if loading else NEXT
        self.head.update(Content.styled(head, FAINT))
        await self.query(Waiting).remove()
        await self.mount_all(Waiting(place, text) for place, text in enumerate(self.texts))
