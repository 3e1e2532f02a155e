"""How much of a prompt to read at once: learnt from the seconds that it takes."""

from collections.abc import Callable
from dataclasses import dataclass, field

from . import backend

_SLACK = 1.5  # times the seconds that are wanted


@dataclass
class Pace:
    """How many tokens of a prompt are read at once: about as many as take `seconds`.

    Long enough to keep the device busy, short enough that cancelling is felt at once. Learnt from
    piece to piece, so one `Pace` should stay with its model.
    """

    tokens: int = field(default_factory=lambda: 4 if backend.device() == "CPU" else 128)
    most: int = field(default_factory=backend.prompt_tokens)
    seconds: float = 0.4
    ceiling: Callable[[], int] = lambda: 1 << 30  # tokens that there is room for

    def next(self) -> int:
        """How many tokens to read now."""
        return max(1, min(self.tokens, self.ceiling()))

    def learn(self, tokens: int, seconds: float) -> None:
        """Account for a piece that was read; one that was cut short says little.

        Pieces that take a little longer, as they do late in a conversation, are not made smaller:
        smaller ones are read more slowly.
        """
        if tokens >= self.tokens and not 1 < seconds / self.seconds < _SLACK:
            fitting = int(tokens * self.seconds / max(seconds, 1e-9))
            fitting = max(1, min(fitting, 4 * tokens, self.most))
            self.tokens = 1 << (fitting.bit_length() - 1)
