"""What a model remembers of a conversation, and how to go back in it.

A new prompt mostly begins as the last one did. What both share need not be read again if the caches
can be brought back to where they part: plain ones are cut there, a window that is full and a
recurrent state cannot be cut, so a copy of those is kept at one point that is worth returning to.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map

from .compat import KVCache
from .decoder import Decoder
from .rollback import cut, parts


def shared_length(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two sequences have in common at their beginning."""
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )


@dataclass(frozen=True)
class _Mark:
    length: int  # tokens
    states: list[Any]  # of the parts of caches that cannot be cut; None for the others


class Past:
    """The tokens a model has read, and each layer's cache of them.

    Whoever runs the model on `caches` appends what it fed to `tokens`.

    Args:
        kv_bits: 8 or 4 for keys and values, where that can be; None keeps them as they are.
    """

    def __init__(self, model: Decoder, kv_bits: int | None = None):
        self.model, self.kv_bits = model, kv_bits
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.tokens: list[int] = []
        self.caches = self.model.make_cache(self.kv_bits)
        self._mark: _Mark | None = None

    @property
    def nbytes(self) -> int:
        """Memory of the caches and of what is kept for going back."""
        kept = tree_flatten(self._mark.states) if self._mark else []
        arrays = [part for _, part in kept if isinstance(part, mx.array)]
        return sum(part.nbytes for part in [*self.caches, *arrays])

    @property
    def cuttable(self) -> bool:
        """Whether any end can be cut off at any time, so that marks are of no use."""
        return all(isinstance(part, KVCache) for part in parts(self.caches))

    def mark(self) -> None:
        """Remember this point, in place of the one before, for `rewind` to return to."""
        states = [
            None if isinstance(part, KVCache) else _copied(part.state)
            for part in parts(self.caches)
        ]
        self._mark = _Mark(len(self.tokens), states)

    def rewind(self, prompt: Sequence[int]) -> int:
        """Forget all that is not the beginning of `prompt`; how many tokens are kept.

        At least one token of the prompt is left to be read, for its logits.
        """
        shared = shared_length(self.tokens, prompt[:-1])
        if shared < len(self.tokens) and not self._cut(shared) and not self._return(shared):
            self.clear()
        return len(self.tokens)

    def _cut(self, length: int) -> bool:
        """Cut everything after `length` tokens off, if every cache can."""
        surplus = len(self.tokens) - length
        if not all(cache.is_trimmable() for cache in self.caches):
            return False
        cut(self.caches, surplus)
        del self.tokens[length:]
        if self._mark and self._mark.length > length:
            self._mark = None
        return True

    def _return(self, length: int) -> bool:
        """Return to the mark, if it lies within the first `length` tokens."""
        mark = self._mark
        if mark is None or mark.length > length:
            return False
        for part, state in zip(parts(self.caches), mark.states, strict=True):
            if state is None:
                part.trim(len(self.tokens) - mark.length)
            else:
                part.state = _copied(state)
        del self.tokens[mark.length :]
        return True


def _copied(state: Any) -> Any:
    """A cache's state in arrays of its own: caches assign to slices of theirs, in place.

    The numbers themselves are copied only when either side is written to.
    """
    return tree_map(copy.copy, state)
