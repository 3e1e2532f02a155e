"""A model that is loaded, and what belongs to it."""

from dataclasses import dataclass

import mlx.core as mx

from mlxarch.cache import Past
from mlxarch.decoder import Decoder
from mlxarch.kept import Kept
from mlxarch.pace import Pace
from mlxarch.speculate import Lookup
from mlxarch.stake import Stake
from mlxarch.tokenizer import Tokenizer
from mlxarch.vision.sight import Sight

from .protocol import Memory
from .watch import Watch, process


@dataclass(frozen=True)
class Loaded:
    """A model and what belongs to it."""

    model: Decoder
    tokenizer: Tokenizer
    past: Past
    pace: Pace
    draft: str | Past | Lookup  # who guesses, see `speculate.drafter`
    stake: Stake
    context: int  # tokens
    defaults: dict[str, float]  # the publisher's, in the words of `Sampling`
    bytes: int  # of weights
    watch: Watch
    kept: Kept | None = None  # what was read in runs before
    sight: Sight | None = None
    blind: str = ""  # why there is none

    def shed(self) -> None:
        """Let go of what can be done without."""
        self.past.shed()
        if self.sight is not None:
            self.sight.shed()

    def memory(self) -> Memory:
        """Where memory stands."""
        return Memory(
            weights=self.bytes + (self.sight.nbytes if self.sight else 0),
            cache=self.past.nbytes,
            active=mx.get_active_memory(),
            peak=self.watch.peak,
            process=process(),
            limit=self.watch.limit,
        )
