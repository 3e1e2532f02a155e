"""The conversation as data; the widgets are views of it."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import Any, Literal

from ..engine.protocol import Delta, Prefill, Reason, Stats, ToolCall

# Textual hands escape sequences on to the terminal, which would obey them; so it would marks of
# direction that have text read otherwise than it is written.
_PICTURES: dict[int, str] = {code: chr(0x2400 + code) for code in range(0x20)}
_PICTURES |= dict.fromkeys([*range(0x80, 0xA0), *range(0x202A, 0x202F)], "\ufffd")
_PICTURES |= dict.fromkeys(range(0x2066, 0x206A), "\ufffd")
_PICTURES |= {ord("\n"): "\n", ord("\t"): "\t", ord("\r"): "", 0x7F: "␡"}


def plain(text: str) -> str:
    """`text` with a picture in place of each control character, such as ␛; lines and tabs stay."""
    return text.translate(_PICTURES)


Part = Literal["question", "answer"]
PARTS: tuple[Part, Part] = ("question", "answer")


@dataclass(eq=False)
class Turn:
    """A question and its answer, with what the answer cost.

    Turns form a tree: what was asked otherwise, or answered again, has the same parent.
    """

    id: int  # of the command that last made it grow
    question: str
    asked: float  # the session's clock
    parent: "Turn | None" = field(default=None, repr=False)
    replies: list["Turn"] = field(default_factory=list, repr=False)
    seen: "Turn | None" = field(default=None, repr=False)  # the reply that was shown last
    basis: "list[Turn] | None" = field(default=None, repr=False)  # read instead of what is before
    siblings: list["Turn"] = field(default_factory=list, repr=False)  # and itself, oldest first
    text: str = ""
    thinking: str = ""
    thoughts: int = 0  # tokens of `thinking`
    seconds: list[float] = field(default_factory=list)  # one for each token
    guessed: list[bool] = field(default_factory=list)  # likewise: somebody else had guessed it
    rejected: int = 0  # guesses that were wrong
    lengths: list[int] = field(default_factory=list)  # likewise: characters of `text` it brought
    first: float | None = None  # seconds from the question to the first token
    prefill: Prefill | None = None
    calls: list[ToolCall] = field(default_factory=list)  # of tools; shown, not run
    stats: Stats | None = None
    context: int | None = None  # tokens up to its end, where another figure than `stats` holds
    ended: Reason | Literal["interrupted"] | None = None
    question_id: str | None = None  # of the message in the history
    answer_id: str | None = None  # likewise
    failed: bool = False

    @property
    def running(self) -> bool:
        """The answer may still grow."""
        return self.ended is None and not self.failed

    @property
    def wordless(self) -> bool:
        """The answer ended before its first word, so its question is not sent again."""
        return not self.running and not self.text.strip() and not self.calls

    @property
    def parts(self) -> tuple[Part, ...]:
        """The messages that are there."""
        answered = self.text.strip() or self.thinking.strip() or self.calls
        return PARTS if answered else PARTS[:1]

    @property
    def partial(self) -> bool:
        """The answer, or the thinking before it, ended before the model had ended it."""
        begun = self.text.strip() or self.thinking.strip()
        return not self.running and bool(begun) and (self.failed or self.cut)

    @property
    def cut(self) -> bool:
        """Something else than the model ended it."""
        return self.ended not in (None, "stop")

    def versions(self, part: Part) -> list["Turn"]:
        """A turn for each version of one of its messages, itself among them, oldest first."""
        if part == "answer":
            return [turn for turn in self.siblings if turn.question == self.question]
        questions = {turn.question: turn for turn in self.siblings} | {self.question: self}
        return list(questions.values())

    def path(self) -> list["Turn"]:
        """The turns up to this one, oldest first."""
        turn: Turn | None = self.parent
        found: list[Turn] = [self]
        while turn:
            found.append(turn)
            turn = turn.parent
        return found[::-1]

    @property
    def size(self) -> int:
        """How many turns there are from this one on, on all branches."""
        return 1 + sum(turn.size for turn in self.replies)

    def go_on(self, id: int, now: float) -> None:
        """The answer goes on where it ended."""
        self.id, self.asked = id, now
        self.ended, self.failed, self.prefill, self.context = None, False, None, None

    def account(self, stats: Stats) -> None:
        """Take the engine's own figures, which are exact."""
        self.stats = stats
        if stats.tokens:
            self.first = stats.first_token_seconds

    def grow(self, delta: Delta, now: float) -> None:
        """Add some tokens; `now` is when they arrived."""
        if self.first is None and delta.seconds:
            self.first = max(now - self.asked - sum(delta.seconds[1:]), 0.0)
        self.seconds += delta.seconds
        self.guessed += delta.guessed or [False] * len(delta.tokens)
        self.rejected += delta.rejected
        if delta.channel == "thinking":
            self.thinking += plain(delta.text)
            self.thoughts += len(delta.tokens)
            self.lengths += [0] * len(delta.tokens)
        else:
            self._say(delta)

    def _say(self, delta: Delta) -> None:
        ends = [0, *accumulate(delta.lengths)]
        pieces = [plain(delta.text[start:end]) for start, end in pairwise(ends)]
        # What was held back until it was sure has no token of its own.
        rest = plain(delta.text[ends[-1] :])
        self.text += "".join([*pieces, rest])
        self.lengths += [len(piece) for piece in pieces]
        self.lengths += [0] * (len(delta.tokens) - len(pieces))
        if self.lengths:
            self.lengths[-1] += len(rest)


@dataclass(frozen=True)
class Failure:
    """Something that went wrong, where it went wrong in the conversation."""

    title: str
    message: str
    advice: str = ""


@dataclass
class Transcript:
    """What was said: a tree, and the one branch of it that is shown."""

    entries: list[Turn | Failure] = field(default_factory=list)  # as shown
    first: list[Turn] = field(default_factory=list)  # what begins the conversation
    ids: int = 0  # given out so far; never reused, so that a late event finds no wrong turn

    def next_id(self) -> int:
        """An id that nothing else has."""
        self.ids += 1
        return self.ids

    def ask(self, question: str, now: float, after: Turn | None) -> Turn:
        """A new turn at the end of the branch that leads to `after`, which is shown now."""
        turn = Turn(id=self.next_id(), question=question, asked=now)
        self.join(turn, after)
        if after is not self.last:
            self.entries = list(after.path()) if after else []
        self.entries.append(turn)
        if after:
            after.seen = turn
        return turn

    def join(self, turn: Turn, after: Turn | None) -> None:
        """Give a turn its place in the tree."""
        turn.parent, turn.siblings = after, self.following(after)
        turn.siblings.append(turn)

    def branch(self, turn: Turn | None) -> "Transcript":
        """A conversation of its own with the same past, up to a turn."""
        copy, after = Transcript(ids=self.ids), None
        for one in turn.path() if turn else []:
            lists = {key: list(value) for key, value in vars(one).items() if type(value) is list}
            twin = replace(one, **{**lists, "replies": [], "seen": None})
            copy.join(twin, after)
            copy.entries.append(twin)
            after = twin
        return copy

    def graft(self, turns: Sequence[Turn], after: Turn | None) -> list[Turn]:
        """Copies of turns, one after another behind a turn or at the beginning; they are shown."""
        copies = []
        for one in turns:
            lists = {key: list(value) for key, value in vars(one).items() if type(value) is list}
            fresh = {"replies": [], "seen": None, "question_id": None, "answer_id": None}
            copies.append(replace(one, **{**lists, **fresh}))
            self.join(copies[-1], after)
            after = copies[-1]
        if after:
            self.show(after)
        return copies

    def following(self, turn: Turn | None) -> list[Turn]:
        """What was asked after a turn, or at the beginning."""
        return turn.replies if turn else self.first

    def show(self, turn: Turn | None) -> None:
        """Show the branch through a turn, down to where it was left."""
        self.entries = list(turn.path()) if turn else []
        while turn:
            if turn.parent:
                turn.parent.seen = turn
            turn = turn.seen or (turn.replies[-1] if turn.replies else None)
            if turn:
                self.entries.append(turn)

    def leave(self, turn: Turn) -> None:
        """Show the branch only up to the turn before this one."""
        self.entries = list(turn.parent.path()) if turn.parent else []

    def remove(self, turn: Turn) -> None:
        """Forget a turn and all that follows it; another version of it is shown, if any."""
        turn.siblings.remove(turn)
        if turn.parent:
            turn.parent.seen = None
        self.show(turn.siblings[-1] if turn.siblings else turn.parent)

    @property
    def turns(self) -> Iterator[Turn]:
        """The turns that are shown, oldest first."""
        return (entry for entry in self.entries if isinstance(entry, Turn))

    @property
    def all(self) -> Iterator[Turn]:
        """The turns of all branches."""
        left = list(self.first)
        while left:
            yield (turn := left.pop())
            left += turn.replies

    @property
    def last(self) -> Turn | None:
        """The last turn that is shown."""
        return next((entry for entry in reversed(self.entries) if isinstance(entry, Turn)), None)

    @property
    def answered(self) -> Turn | None:
        """The last turn whose answer has any text."""
        return next((turn for turn in reversed(list(self.turns)) if turn.text.strip()), None)

    def messages(self, system: str | None, turn: Turn) -> list[dict[str, Any]]:
        """What the model is sent for a turn: the system prompt and whole exchanges, then either
        the open question, or the answer that is to go on, of which there may be but thoughts.

        Roles alternate strictly, because some chat templates refuse anything else.
        """
        said: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
        before = turn.path()[:-1] if turn.basis is None else turn.basis
        for one in [*before, turn]:
            if one.wordless:
                continue
            said.append({"role": "user", "content": one.question})
            if one.text or not one.running or one.thinking:
                said.append({"role": "assistant", "content": one.text})
                if one.calls:
                    said[-1]["tool_calls"] = [_function(call) for call in one.calls]
        if turn.thinking:
            said[-1]["reasoning_content"] = turn.thinking
        return said


def _function(call: ToolCall) -> dict[str, Any]:
    """A call as chat templates read it."""
    try:
        arguments = json.loads(call.arguments)
    except ValueError:
        arguments = call.arguments
    return {"type": "function", "function": {"name": call.name, "arguments": arguments}}
