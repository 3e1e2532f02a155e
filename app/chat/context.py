"""How full a model's context is, and the same conversation with less of what is old."""

from collections.abc import Sequence

from ..attachment import pictures
from .session import Session
from .transcript import Turn

SUM_UP = (
    "Sum up our conversation so far in at most 300 words, so that we can go on from your summary "
    "alone: what I want, what we found out and decided, and what is still open."
)
SUMMED = 0.7  # of the context, at most, is read for a summary
LETTERS = 4  # characters of a token, about


class Context:
    """Of one session; what is left out stays on the branch that was shown."""

    def __init__(self, session: Session):
        self._session = session

    @property
    def size(self) -> int:
        """Tokens that it holds; 0 while no model is loaded."""
        ready = self._session.ready
        return ready.context if ready else 0

    @property
    def tokens(self) -> int:
        """Tokens of the conversation the model last held in view."""
        turn = self._session.turn
        return _tokens(turn) if turn and (turn.stats or turn.context is not None) else 0

    @property
    def share(self) -> float:
        """The share of the context that is in use."""
        return self.tokens / self.size if self.size else 0.0

    @property
    def worded(self) -> list[Turn]:
        """The exchanges that are shown and sent."""
        turns = self._session.transcript.turns
        return [turn for turn in turns if not turn.wordless and not turn.running]

    def fits(self, question: str) -> bool:
        """A question may find room; only the engine can tell for sure."""
        return not self.size or self.tokens + _about(question) < self.size

    @property
    def droppable(self) -> int:
        """How many of the oldest exchanges take the place that half of the context needs."""
        turns, room = self.worded, self.size // 2
        ends = [_tokens(turn) for turn in turns]
        fitting = (n for n in range(1, len(turns)) if ends[-1] - ends[n - 1] <= room)
        return next(fitting, max(len(turns) - 1, 1))

    def drop(self, count: int) -> None:
        """Go on without the oldest exchanges, on a branch of its own."""
        self._graft(self.worded[count:], None)

    def sum_up(self) -> Turn:
        """Have the model sum up all but the last exchange, at the beginning of a branch."""
        older, stood = self.worded[:-1], self._session.transcript.last
        if self.size:  # what is summed up has to leave room for the summary
            ends, room = [_tokens(turn) for turn in older], self.size * SUMMED
            older = [turn for turn, end in zip(older, ends, strict=True) if ends[-1] - end < room]
        turn = self._session.transcript.ask(SUM_UP, self._session.clock(), None)
        turn.basis = older
        self._session.generate(turn)
        self._session.keeper.stands(stood)  # on disk, until there is a summary
        return turn

    def follow_summary(self, summary: Turn, stood: Turn) -> int:
        """Go on after a summary with the last exchange; how many were summed up."""
        worded = [turn for turn in stood.path() if not turn.wordless]
        self._graft(worded[-1:], summary)
        return len(summary.basis or [])

    def _graft(self, turns: Sequence[Turn], after: Turn | None) -> None:
        session, before = self._session, turns[0].parent if turns else None
        less = (_tokens(before) if before else 0) - (
            after.stats.tokens if after and after.stats else 0
        )
        for turn, copy in zip(turns, session.transcript.graft(turns, after), strict=True):
            copy.context = max(_tokens(turn) - less, 0)
            session.keeper.copied(copy)
        session.stand()


def _tokens(turn: Turn) -> int:
    """Tokens of a conversation up to the end of a turn; an estimate where they were not told."""
    if turn.context is not None:
        return turn.context
    if turn.stats:
        return turn.stats.prompt_tokens + turn.stats.tokens
    return sum(_about(one.question) + _about(one.text) for one in turn.path())


def _about(text: str) -> int:
    """Tokens of a text and of the pictures that came along with it."""
    return len(text) // LETTERS + sum(image.tokens for image in pictures(text))
