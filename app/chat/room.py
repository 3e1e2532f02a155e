"""A context that fills up: it is said early, and what to do about it is the person's choice."""

from ..attachment import folded
from ..engine.protocol import Reason
from . import gauges
from .base import numbered
from .choice import Choice
from .context import Context
from .figures import percent
from .remembering import Remembering
from .transcript import Failure, Turn

FULL: Reason = "context"
KIND = "ContextFull"  # of the error where a prompt is longer than the context
NO_SUMMARY = {  # why, by how it ended
    "length": "The summary was cut off at the longest answer that is set; /set max_tokens allows "
    "more.",
    "context": "The summary found no room in the context; /drop leaves the oldest exchanges out.",
    "memory": "The summary was stopped short of the memory limit.",
    "cancelled": "The summary was stopped.",
}


class MakingRoom(Remembering):
    """Sums up or leaves out what is old, on a branch of its own: all of it can be brought back."""

    warned: bool = False
    summing: tuple[Turn, Turn | None] | None = None  # the summary, and where one stood before

    @property
    def context(self) -> Context:
        """What the model holds in view."""
        return Context(self.session)

    def possible(self) -> dict[str, bool]:
        """Only where there is something older than the last exchange."""
        room = not self.session.busy and len(self.context.worded) > 1
        before = super().possible()
        return {**before, "compact": room and before["send"], "drop": room}

    def abandon(self) -> None:
        """A summary that is left before its end was never made."""
        super().abandon()
        if self.summing:
            self._forget_summary(*self.summing)

    async def ask(self, question: str) -> None:
        """A question that does not fit is not sent unasked."""
        if self.context.fits(question) or len(self.context.worded) < 2 or self.editing:
            await super().ask(question)
            return
        self.composer.put_back(folded(question)[0])
        self._offer("With this question the context would be longer than the model keeps in view.")

    def show_now(self) -> None:
        """Warn as soon as an answer, or what is opened, fills the context up."""
        super().show_now()
        view = gauges.context(self.session)
        tight = view is not None and view.share >= gauges.TIGHT
        if view and tight and not (self.warned or self.summing or self._overflows):
            less = (
                "/compact sums the older part up, /drop leaves it out; both can be undone."
                if [turn for turn in self.context.worded if turn is not self.session.turn]
                else "Nothing is older than this exchange; Ctrl+N begins a new conversation."
            )
            self.say(f"The context is {percent(view.share)} full. {less}", warning=True)
        self.warned = tight or (self.warned and self.session.busy)

    async def answered(self, turn: Turn) -> None:
        """Go on after a summary, or offer what can be done."""
        if self.summing and self.summing[0] is turn:
            await self._summed(turn, self.summing[1])
        elif self._overflows:
            self._offer("The conversation is longer than the model's context.")
        await super().answered(turn)

    @property
    def _overflows(self) -> bool:
        """The last answer did not fit, and something can be left out."""
        entries, turn = self.session.transcript.entries, self.session.turn
        last = entries[-1] if entries else None
        refused = isinstance(last, Failure) and last.title == KIND
        full = turn is not None and turn.ended == FULL
        return (refused or full) and len(self.context.worded) > 1

    def _offer(self, text: str) -> None:
        count = self.context.droppable
        oldest = "the oldest exchange" if count == 1 else f"the {count} oldest exchanges"
        options = [
            ("compact", "Have the model sum up all but the last exchange"),
            ("drop", f"Leave out {oldest}"),
            ("", "Neither: change the question, or begin a new conversation"),
        ]
        text += " What is left out or summed up stays as another version of the first message."
        self.push_screen(Choice("The context is full", text, options), self._make_room)

    async def _make_room(self, chosen: str | None) -> None:
        if chosen == "compact":
            await self.action_compact()
        elif chosen == "drop":
            await self.action_drop()

    async def action_compact(self) -> None:
        """The model sums up all but the last exchange, where one sees it."""
        stood = self.session.transcript.last
        self.summing = self.context.sum_up(), stood
        await self.show_thread()

    async def _summed(self, turn: Turn, stood: Turn | None) -> None:
        if stood and (turn.wordless or turn.cut or turn.failed):
            last = self.session.transcript.entries[-1]
            why = NO_SUMMARY.get(turn.ended or "", "There is no summary.")
            if isinstance(last, Failure):
                why = f"There is no summary: {last.message or last.title}"
            self._forget_summary(turn, stood)
            self.say(f"{why} The conversation is as it was.", warning=True)
        elif stood:
            self.summing = None
            count = self.context.follow_summary(turn, stood)
            done = "1 exchange was" if count == 1 else f"{count} exchanges were"
            self.say(f"{done} summed up. /version 1 undoes it.")
        await self.show_thread()

    def _forget_summary(self, turn: Turn, stood: Turn | None) -> None:
        self.summing = None
        if stood:
            self.session.show(stood)
            self.session.remove_version(turn)

    async def action_drop(self, number: str = "") -> None:
        """Leave out the oldest exchanges: so many, or as many as make half of the room free."""
        most = len(self.context.worded) - 1
        count = numbered(number, most) if number else self.context.droppable
        self.context.drop(count)
        await self.show_thread()
        what = "exchange is" if count == 1 else "exchanges are"
        self.say(f"{count} {what} left out. /version 1 brings all back.")
