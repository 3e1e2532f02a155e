"""The branch of the conversation that is shown, and the message that is selected in it."""

from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import cast

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding
from textual.containers import Vertical, VerticalScroll
from textual.geometry import Region
from textual.message import Message
from textual.scrollbar import ScrollBar, ScrollBarRender
from textual.strip import Strip
from textual.widgets import Static

from .keys import letters
from .lines import Holding, filtered
from .transcript import Failure, Part, Turn
from .views import FailureView, TurnView

AT_ONCE = 10  # entries that are shown first; older ones come when one scrolls up to them
MOST = 15  # entries that stay when another is added
NEAR = 3  # lines from the top


class Page(Vertical, Holding):
    """What holds the entries."""


class Bar(ScrollBar):
    """As Textual has it, but quicker: while an answer grows, it is another in each picture."""

    def render_lines(self, crop: Region) -> list[Strip]:
        """Its cells, of which few differ."""
        bar = cast(ScrollBarRender, self.render())
        pen = cast(Style, bar.style)
        back, thumb = pen.bgcolor, pen.color
        assert back is not None
        assert thumb is not None
        cells = bar.render_bar(
            size=self.size.height,
            virtual_size=bar.virtual_size,
            window_size=bar.window_size,
            position=bar.position,
            back_color=back,
            bar_color=thumb,
        ).segments
        ground = Style.from_color(bgcolor=back)
        strips = {id(cell): Strip(Segment.apply_style([cell], ground), 1) for cell in cells}
        shown = [strips[id(cell)] for cell in cells]
        return filtered(self, shown[crop.y : crop.bottom])


class TranscriptView(VerticalScroll, Holding, inherit_bindings=False):
    """All entries, followed to the end until the person scrolls up.

    With the keyboard, it has the focus while a message is selected; a click selects one and
    leaves the focus where it is.
    """

    FOCUS_ON_CLICK = False
    BINDINGS = [
        Binding("up,ctrl+up,k", "move(-1)", "Up", show=False),
        Binding("down,ctrl+down,j", "move(1)", "Down", show=False),
        Binding("home", "end(0)", "First", show=False),
        Binding("end", "end(-1)", "Last", show=False),
        *letters(),
    ]

    class Selected(Message):
        """Another message is selected, or none."""

    def __init__(self):
        super().__init__(id="transcript")
        self.page = Page(id="page")
        self.older: list[Turn | Failure] = []  # not shown yet
        self.selected: tuple[Turn, Part] | None = None

    def compose(self) -> Iterable[Page]:
        """A page that is never shorter than the screen, so that a short one begins at the top."""
        yield self.page

    @property
    def vertical_scrollbar(self) -> ScrollBar:
        """Made when it is first wanted."""
        if self._vertical_scrollbar is None:
            self._vertical_scrollbar = bar = Bar(name="vertical")
            bar.display = False
            self.app._start_widget(self, bar)
        return self._vertical_scrollbar

    async def add(self, entry: Turn | Failure) -> None:
        """Show one more entry."""
        if self.page.has_class("-empty"):
            self.page.remove_class("-empty")
            await self.page.remove_children()
        await self.page.mount(_view(entry))

    async def begin(self, welcome: Static) -> None:
        """Show nothing but a welcome."""
        self.select(None)
        self.older = []
        await self.page.remove_children()
        self.page.add_class("-empty")
        await self.page.mount(welcome)

    async def show(self, entries: Sequence[Turn | Failure]) -> None:
        """Show other entries, down to the last; views of those that go on being shown stay."""
        shown, wanted = self.views, list(entries)
        first = shown[0].entry if shown else None
        start = wanted.index(first) if first in wanted else max(len(wanted) - AT_ONCE, 0)
        if not self.selected:
            # Every widget there is costs time whenever something is drawn.
            start = max(start, len(wanted) - MOST)
        self.select(None)
        self.older, wanted = wanted[:start], wanted[start:]
        place = next((i for i, one in enumerate(shown) if one.entry in wanted[:1]), len(shown))
        pairs = zip(shown[place:], wanted, strict=False)
        kept = [view for view, _ in takewhile(lambda pair: pair[0].entry is pair[1], pairs)]
        self.page.remove_class("-empty")
        with self.app.batch_update():
            # What is not a view of an entry is the welcome.
            await self.page.remove_children([c for c in self.page.children if c not in kept])
            await self.page.mount_all([_view(entry) for entry in wanted[len(kept) :]])
        for view in self._turns:
            view.show_versions()

    async def renew(self, turn: Turn) -> None:
        """Show a turn from its beginning again, because what was complete goes on."""
        if view := self.view(turn):
            await self.page.mount(TurnView(turn), after=view)
            await view.remove()

    @property
    def views(self) -> list[TurnView | FailureView]:
        """The widgets of the entries, oldest first."""
        children = self.page.children
        return [child for child in children if isinstance(child, TurnView | FailureView)]

    def view(self, turn: Turn) -> TurnView | None:
        """The widget of a turn, if it is shown."""
        return next((view for view in self._turns if view.turn is turn), None)

    @property
    def _turns(self) -> list[TurnView]:
        # A query would look at every widget within them.
        return [view for view in self.views if isinstance(view, TurnView)]

    def _size_updated(self, *args, **kwargs) -> bool:
        """The scrollbar comes in the same picture: it would ask for one of its own."""
        resized, bar = super()._size_updated(*args, **kwargs), self.vertical_scrollbar
        if resized and self.show_vertical_scrollbar:
            self.screen._compositor.update_widgets({bar})
            bar._repaint_required = False
        return resized

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Older entries come when their place comes into view."""
        super().watch_scroll_y(old_value, new_value)
        if self.older and new_value < min(NEAR, old_value):
            self.call_next(self._show_older)

    async def _show_older(self) -> None:
        batch, self.older = self.older[-AT_ONCE:], self.older[:-AT_ONCE]
        if batch:
            before = self.max_scroll_y - self.scroll_y
            await self.page.mount_all([_view(entry) for entry in batch], before=0)
            self.call_after_refresh(
                lambda: self.scroll_to(y=self.max_scroll_y - before, animate=False)
            )

    @property
    def messages(self) -> list[tuple[Turn, Part]]:
        """What can be selected, oldest first."""
        return [(view.turn, part) for view in self._turns for part in view.turn.parts]

    def select(self, message: tuple[Turn, Part] | None) -> None:
        """Mark a message, with what can be done with it, or none."""
        if message == self.selected:
            return
        self.selected = message
        for view in self._turns:
            part = message[1] if message and view.turn is message[0] else None
            view.mark(part, letters=self._has_keys)
        self.post_message(self.Selected())

    def show_choices(self) -> None:
        """What can be done with the selected message: an answer has ended, or keys go elsewhere."""
        if self.selected and (view := self.view(self.selected[0])):
            view.mark(self.selected[1], letters=self._has_keys)

    @property
    def _has_keys(self) -> bool:
        return self.screen.focused is self

    def allow_focus(self) -> bool:
        """Only where there is something to select."""
        return super().allow_focus() and bool(self.messages)

    def on_blur(self) -> None:
        """The keys are others now."""
        self.show_choices()
        self.post_message(self.Selected())

    def on_focus(self) -> None:
        """The keyboard comes here: something is selected."""
        if not self.selected and self.messages:
            self.action_end(-1)
        else:
            self.show_choices()

    def on_paste(self, event: events.Paste) -> None:
        """What is pasted while a message is selected is meant for the input."""
        event.stop()
        self.select(None)
        self.screen.focus_next("#composer")
        self.app.post_message(events.Paste(event.text))

    async def action_move(self, step: int) -> None:
        """Select the next message, or the one before; after the last one, none."""
        messages = self.messages
        place = messages.index(self.selected) if self.selected in messages else len(messages)
        if place + step < 0 and self.older:
            await self._show_older()
            messages, place = self.messages, self.messages.index(messages[place])
        if place + step >= len(messages):
            self.select(None)
            self.screen.focus_next("#composer")
        elif messages:
            self._go(messages[max(place + step, 0)])

    def action_end(self, place: int) -> None:
        """Select the first message that is here, or the last."""
        if messages := self.messages:
            self._go(messages[place])

    def _go(self, message: tuple[Turn, Part]) -> None:
        self.select(message)
        if view := self.view(message[0]):
            view.come_into_view(message[1])

    def on_turn_view_clicked(self, event: TurnView.Clicked) -> None:
        """A click selects a message, a second one does not any more."""
        event.stop()
        message = event.turn, event.part
        self.select(None if message == self.selected else message)


def _view(entry: Turn | Failure) -> TurnView | FailureView:
    return TurnView(entry) if isinstance(entry, Turn) else FailureView(entry)
