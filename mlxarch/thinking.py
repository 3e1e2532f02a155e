"""Thinking that is ended for the model once it has taken so many tokens.

What ends it is fed as if the model had said it, and the answer goes on from there: caches, guesses,
penalties and noise are as they would be then.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from itertools import chain

from .generate import Answer, Reason, Token


class Bounded:
    """An answer with an end to its thinking: iterate over it, once, for its tokens.

    Args:
        answer: One that was not iterated over yet.
        thinks: Whether the answer is within its thinking, after the token that was yielded last.
        tokens: How many of thinking there may be; None for any number.
        ending: Tokens that end it.
    """

    def __init__(
        self,
        answer: Answer,
        thinks: Callable[[], bool],
        tokens: int | None = None,
        ending: Sequence[int] = (),
    ):
        self._parts, self._most = [answer], answer.max_tokens
        self._thinks, self._tokens, self._ending = thinks, tokens, list(ending)
        self.reason: Reason | None = None  # why it ended, once it has

    @property
    def guessed(self) -> int:
        """Tokens that a drafter guessed."""
        return sum(part.guessed for part in self._parts)

    @property
    def right(self) -> int:
        """Those that were right."""
        return sum(part.right for part in self._parts)

    def __iter__(self) -> Generator[Token]:
        """Token after token, those that end thinking among them."""
        if self._tokens is None or not self._ending:
            yield from self._parts[-1]
            self.reason = self._parts[-1].reason
            return
        said, left = list[int](), self._tokens
        while True:
            part, begun = self._parts[-1], len(said)
            # What comes after the end of thinking is the answer.
            self._bound(begun, 0, None if begun else left)
            tokens = iter(part)
            first = next(tokens, None)
            if begun and part.reason != "cancelled":
                yield from self._fed(part)
            for token in () if first is None else chain([first], tokens):
                said.append(token.id)
                within = self._thinks()
                yield token
                left -= within and self._thinks()
                self._bound(begun, len(said) - begun, left)
                if self._thinks() and left <= 0:
                    break
            tokens.close()
            self.reason = part.reason
            if not self._thinks() or left > 0 or part.reason not in (None, "length"):
                return
            if self._most is not None and len(said) + len(self._ending) >= self._most:
                self.reason = "length"
                return
            said += self._ending
            self._parts.append(self._resumed(said))

    def _bound(self, begun: int, count: int, left: int | None) -> None:
        """Let no more tokens be computed than may be said: guesses would be in vain."""
        most = None if self._most is None else self._most - begun
        if left is not None and self._thinks():
            most = count + left if most is None else min(most, count + left)
        self._parts[-1].max_tokens = most

    def _resumed(self, said: list[int]) -> Answer:
        """The rest of the answer, after what was said and what ends thinking."""
        first, last = self._parts[0], self._parts[-1]
        if first.constraint is not None:
            for token in self._ending:
                first.constraint.take(token)
        return replace(
            last,
            prompt=[*first.prompt, *said],
            said=first.said + len(said),
            on_prefill=lambda done, total: None,
        )

    def _fed(self, part: Answer) -> Generator[Token]:
        """What ended thinking: it was certain, and took the time that it took to be read."""
        each = part.prefill_seconds / len(self._ending)
        for token in self._ending:
            yield Token(token, each, 0.0 if part.logprobs else None)
