"""The conversation as data; the widgets are views of it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

from ..engine.protocol import Delta, Prefill, Reason, Stats, ToolCall

# Textual hands escape sequences on to the terminal, which would obey them.
_PICTURES: dict[int, str] = {code: chr(0x2400 + code) for code in range(0x20)}
_PICTURES |= dict.fromkeys(range(0x80, 0xA0), "\ufffd")
_PICTURES |= {ord("\n"): "\n", ord("\t"): "\t", ord("\r"): "", 0x7F: "␡"}


def plain(text: str) -> str:
    """`text` with a picture in place of each control character, such as ␛; lines and tabs stay."""
    return text.translate(_PICTURES)


@dataclass
class Turn:
    """A question and its answer, with what the answer cost."""

    id: int
    question: str
    asked: float  # the session's clock
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
    ended: Reason | None = None
    failed: bool = False

    @property
    def running(self) -> bool:
        """The answer may still grow."""
        return self.ended is None and not self.failed

    @property
    def wordless(self) -> bool:
        """The answer ended before its first word, so its question is not sent again."""
        return not self.running and not self.text.strip()

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
    """What was said, in order."""

    entries: list[Turn | Failure] = field(default_factory=list)
    ids: int = 0  # given out so far; never reused, so that a late event finds no wrong turn

    def ask(self, question: str, now: float) -> Turn:
        """A new turn, at the end."""
        self.ids += 1
        turn = Turn(id=self.ids, question=question, asked=now)
        self.entries.append(turn)
        return turn

    @property
    def turns(self) -> Iterator[Turn]:
        """The turns, oldest first."""
        return (entry for entry in self.entries if isinstance(entry, Turn))

    @property
    def answered(self) -> Turn | None:
        """The last turn whose answer has any text."""
        return next((turn for turn in reversed(list(self.turns)) if turn.text.strip()), None)

    def messages(self, system: str | None) -> list[dict[str, str]]:
        """What the model is sent: the system prompt, then whole exchanges and the open question.

        Roles alternate strictly, because some chat templates refuse anything else.
        """
        said = [{"role": "system", "content": system}] if system else []
        for turn in self.turns:
            if turn.wordless:
                continue
            said.append({"role": "user", "content": turn.question})
            if not turn.running:
                said.append({"role": "assistant", "content": turn.text})
        return said
