"""The figures of one answer: a line, and on demand all of it."""

from textual import events
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Static

from .bars import TokenBars
from .figures import details, guesses, pace, summary
from .transcript import Turn

WIDTH = 14  # cells of the names in the table


class Figures(Vertical):
    """One line; a click on it, or the action, opens the bars and the table below."""

    def __init__(self, turn: Turn):
        super().__init__(classes="figures")
        self.turn, self.open, self.display = turn, False, False
        self.line = Static(classes="line")
        self.bars, self.table = TokenBars(whole=True), Static(classes="table")

    def compose(self) -> ComposeResult:
        """The line; what is folded comes when it is wanted."""
        yield self.line

    def show(self) -> None:
        """Follow the turn, once its answer has ended."""
        turn = self.turn
        self.display = not turn.running
        if turn.running:
            return
        mark = f" {'▾' if self.open else '▸'}" if turn.seconds else ""
        self.line.update(Content(summary(turn) + mark))
        unfolded = self.open and bool(turn.seconds)
        self.bars.display = self.table.display = unfolded
        if unfolded:
            if not self.bars.parent:
                self.mount(self.bars, self.table)
            speed = pace(turn.seconds, turn.guessed)
            self.bars.show(turn.seconds, turn.guessed, guesses(turn), speed)
            rows = [Content.assemble(name.ljust(WIDTH), said) for name, said in details(turn)]
            self.table.update(Content("\n").join(rows))

    def toggle(self) -> None:
        """Show all of it, or the line."""
        self.open = not self.open
        self.show()

    def on_click(self, event: events.Click) -> None:
        """A click does the same."""
        event.stop()
        self.toggle()
