"""How the entries of a transcript look."""

from time import perf_counter

from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.timer import Timer
from textual.widgets import Static

from .answer import Answer
from .figures import summary, tokens
from .transcript import Failure, Turn

FLUSH = 0.1  # seconds between two renderings of a growing answer
THINKING_LINES = 3  # of what is being thought
THINKING_TAIL = 600  # characters they are cut from


class Thinking(Static):
    """What the model thought before it answered: the last lines while it does, then one line."""

    def __init__(self, turn: Turn):
        super().__init__(classes="thinking")
        self.turn, self.open = turn, False

    def show(self) -> None:
        """Follow the turn."""
        turn = self.turn
        self.display = bool(turn.thinking.strip())
        under_way = turn.running and not turn.text
        head = f"Thinking · {tokens(turn.thoughts)}" if under_way else self._head()
        lines = [Content.styled(head, "italic")]
        if self.open:
            lines.append(Content(turn.thinking.strip()))
        elif under_way:
            tail = turn.thinking[-THINKING_TAIL:].strip().splitlines()[-THINKING_LINES:]
            lines.append(Content("\n".join(tail)))
        self.update(Content("\n").join(lines))

    def _head(self) -> str:
        mark = "▾" if self.open else "▸"
        return f"{mark} Thought for {tokens(self.turn.thoughts)} · Ctrl+T"

    def toggle(self) -> None:
        """Show all of it, or one line."""
        self.open = not self.open
        self.show()

    def on_click(self) -> None:
        """A click does the same."""
        self.toggle()


class TurnView(Vertical):
    """A question and its answer."""

    def __init__(self, turn: Turn):
        super().__init__(classes="turn")
        self.turn = turn
        self.due: Timer | None = None
        self.pause = FLUSH
        self.thinking = Thinking(turn)
        self.answer = Answer()
        self.figures = Static(classes="figures")

    def compose(self) -> ComposeResult:
        """The parts, of which some stay hidden."""
        yield Static(Content(self.turn.question), classes="question")
        yield self.thinking
        yield self.answer
        yield self.figures

    async def on_mount(self) -> None:
        """An entry from before is shown as it is."""
        await self.show()

    def changed(self) -> None:
        """The turn has grown: show it soon, with whatever else comes until then."""
        if self.due is None:
            self.due = self.set_timer(self.pause, self.show)

    async def show(self) -> None:
        """Bring the widgets up to the turn."""
        if self.due:
            self.due.stop()
            self.due = None
        began, turn = perf_counter(), self.turn
        self.thinking.show()
        await self.answer.show(turn.text, running=turn.running)
        self.figures.display = not turn.running
        if not turn.running:
            self.figures.update(Content(summary(turn)))
        # A machine that renders slowly renders seldom.
        self.pause = max(FLUSH, 2 * (perf_counter() - began))


class FailureView(Static):
    """An error, with what to do about it."""

    def __init__(self, failure: Failure):
        parts = [Content.styled(failure.title, "bold $text-error")]
        parts += [Content(text) for text in (failure.message, failure.advice) if text]
        super().__init__(Content("\n").join(parts), classes="failure")


class TranscriptView(VerticalScroll):
    """All entries, followed to the end until the person scrolls up."""

    can_focus = False

    def compose(self) -> ComposeResult:
        """A page that is never shorter than the screen, so that a short one begins at the top."""
        yield Vertical(id="page")

    async def add(self, entry: Turn | Failure) -> None:
        """Show one more entry."""
        view = TurnView(entry) if isinstance(entry, Turn) else FailureView(entry)
        if self.page.has_class("-empty"):
            self.page.remove_class("-empty")
            await self.page.remove_children()
        await self.page.mount(view)

    async def begin(self, welcome: Static) -> None:
        """Show nothing but a welcome."""
        await self.page.remove_children()
        self.page.add_class("-empty")
        await self.page.mount(welcome)

    @property
    def page(self) -> Vertical:
        """What holds the entries."""
        return self.query_one("#page", Vertical)

    def view(self, turn: Turn) -> TurnView:
        """The widget of a turn."""
        return next(view for view in self.query(TurnView) if view.turn is turn)
