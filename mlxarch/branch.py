"""One course of a conversation as it was read, and how to go back in it."""

import copy
from collections.abc import Sequence
from typing import Any, Self

import mlx.core as mx
from mlx.utils import tree_map

from .compat import KVCache
from .decoder import Decoder
from .marks import Marks
from .rollback import cut, parts


def shared_length(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two sequences have in common at their beginning."""
    a, b = list(a), list(b)
    same, end = 0, min(len(a), len(b))
    while same < end:
        # Runs are compared by one call each, tokens would be by one step of Python each.
        half = (same + end + 1) // 2
        if a[same:half] == b[same:half]:
            same = half
        else:
            end = half - 1
    return same


class Branch:
    """Tokens that were read, each layer's cache of them, and marks to go back to.

    Args:
        room: Bytes that the marks may take.
    """

    def __init__(self, model: Decoder, kv_bits: int | None, room: int):
        self.model, self._kv_bits = model, kv_bits
        self.tokens: list[int] = []
        self.caches = self.empty_caches()
        self.marks, self.passing = Marks(room), Marks(0)
        self.asked = 0  # so many of the tokens were asked, the rest may be rendered otherwise

    def empty_caches(self) -> list[Any]:
        """Caches that have read nothing."""
        return self.model.make_cache(self._kv_bits)

    @property
    def arrays(self) -> list[mx.array]:
        """All that is held: what the caches hold, and what the marks keep."""
        states = [part.state for part in parts(self.caches) if not part.empty()]
        held = [each for state in states for each in _flat(state)]
        return [*held, *self.marks.arrays, *self.passing.arrays]

    def reach(self, tokens: Sequence[int]) -> int:
        """How much of some tokens need not be read again."""
        shared = shared_length(self.tokens, tokens)
        if shared == len(self.tokens) or self._cuttable:
            return shared
        return max(marks.nearest(shared) for marks in (self.marks, self.passing))

    def go_back(self, length: int) -> None:
        """Forget all but the first tokens, as many as `reach` said."""
        surplus = len(self.tokens) - length
        if surplus == 0:
            return
        if self._cuttable:
            cut(self.caches, surplus)
        elif length == 0:
            self.caches = self.empty_caches()
        else:
            marks = self.marks if length in self.marks.lengths else self.passing
            marks.restore(self.caches, length, surplus)
        del self.tokens[length:]
        for marks in (self.marks, self.passing):
            marks.forget(length)

    def fork(self, length: int) -> Self:
        """Another one that begins with the first tokens of this one, as many as `reach` said."""
        new = type(self)(self.model, self._kv_bits, self.marks.room)
        if length == 0:
            return new
        new.tokens = list(self.tokens)
        new.marks, new.passing = self.marks.copied(), self.passing.copied()
        # Arrays are only copied when either side writes to them.
        for part, own in zip(parts(self.caches), parts(new.caches), strict=True):
            own.state = tree_map(copy.copy, part.state)
        new.go_back(length)
        for part in parts(new.caches):
            if isinstance(part, KVCache) and not part.empty():
                keys, values, offset = part.state
                part.state = (*(mx.contiguous(x[..., :offset, :]) for x in (keys, values)), offset)
        mx.eval(new.arrays)
        return new

    @property
    def _cuttable(self) -> bool:
        return all(cache.is_trimmable() for cache in self.caches)


def _flat(state: Any) -> list[mx.array]:
    """The arrays of a cache's state."""
    if isinstance(state, mx.array):
        return [state]
    within = state if isinstance(state, list | tuple) else ()
    return [each for part in within for each in _flat(part)]
