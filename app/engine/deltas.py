"""Tokens of an answer, gathered into an event every now and then."""

from collections.abc import Callable
from time import perf_counter

from mlxarch.generate import Token

from .pieces import Piece
from .protocol import Channel, Delta, Event


class Deltas:
    """Gathers pieces into `Delta`s, the first of which is due at once.

    Args:
        interval: Seconds from one until the next is due; 0: each piece is one.
        wrong: How many guesses have been wrong so far; None where nobody guesses.
    """

    def __init__(
        self,
        answer: int,
        interval: float,
        emit: Callable[[Event], None],
        wrong: Callable[[], int] | None = None,
    ):
        self._answer, self._interval, self._emit, self._wrong = answer, interval, emit, wrong
        self._sent = float("-inf")  # when
        self._told = 0  # wrong guesses
        self._channel: Channel = "answer"
        self._text, self._tokens, self._lengths = "", list[Token](), list[int]()

    def add(self, piece: Piece) -> None:
        """One more piece."""
        if piece.channel != self._channel:
            self.send()
        self._channel = piece.channel
        self._text += piece.text
        if piece.token is not None:
            self._tokens.append(piece.token)
            self._lengths.append(len(self._text) - sum(self._lengths))
        if not self._interval:
            self.send()

    @property
    def due(self) -> bool:
        """Whether it is time to send."""
        return perf_counter() - self._sent >= self._interval

    def send(self) -> None:
        """Let go of what is there."""
        if not self._tokens and not self._text:
            return
        wrong = self._wrong() if self._wrong else 0
        self._emit(
            Delta(
                id=self._answer,
                channel=self._channel,
                text=self._text,
                tokens=[token.id for token in self._tokens],
                seconds=[token.seconds for token in self._tokens],
                logprobs=[t.logprob for t in self._tokens if t.logprob is not None],
                guessed=[token.guessed for token in self._tokens] if self._wrong else [],
                rejected=wrong - self._told,
                lengths=self._lengths,
            )
        )
        self._text, self._tokens, self._lengths, self._told = "", [], [], wrong
        self._sent = perf_counter()
