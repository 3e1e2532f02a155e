"""Caches that take drafted tokens and step back to those that were accepted, exactly.

What is cut depends on what a cache holds. Rows of a whole history are cut at their end. A window
still has the rows that an update of several tokens pushed out, until the update after it. A
recurrent state is made of all tokens at once: while `drafting`, a layer also says what it held
after each, and MLX computes the one that is gone back to.
"""

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Any

import mlx.core as mx

from .compat import ArraysCache, CacheList, RotatingKVCache


class State(ArraysCache):
    """A recurrent layer's arrays and, while it drafts, those after each of the last tokens."""

    def __init__(self, size: int):
        super().__init__(size=size)
        self.drafting = False
        self._after: list[list[mx.array]] = []

    def take(self, after: Sequence[list[mx.array]]) -> None:
        """Take the arrays after each of some tokens, and go on from the last."""
        self.cache = list(after[-1])
        self._after = list(after) if self.drafting else []

    def step_back(self, count: int) -> None:
        """Go back to what was held before the last `count` tokens of the last update."""
        self.cache = list(self._after[-1 - count])
        self._after = []


@contextmanager
def drafting(caches: Iterable[Any]) -> Generator[None, None, None]:
    """Updates within the block may be stepped back from."""
    states = [cache for cache in _each(caches) if isinstance(cache, State)]
    for state in states:
        state.drafting = True
    try:
        yield
    finally:
        for state in states:
            state.drafting = False


def step_back(caches: Iterable[Any], count: int) -> None:
    """Forget the last `count` tokens of the last update, made while `drafting`, of more than those.

    Nothing may have happened to the caches since.
    """
    if count == 0:
        return
    for cache in _each(caches):
        if isinstance(cache, State):
            cache.step_back(count)
        elif isinstance(cache, RotatingKVCache):
            # An update of several tokens lays them down in order, the last at the end.
            cache.keys, cache.values = cache.keys[..., :-count, :], cache.values[..., :-count, :]
            cache.offset -= count
            cache._idx -= count
        else:
            cut([cache], count)


def cut(caches: Iterable[Any], count: int) -> None:
    """Cut the last `count` tokens off caches that can be trimmed by so many."""
    for cache in _each(caches):
        done = cache.trim(count)
        assert done == count, f"{done} of {count} tokens were cut off a {type(cache)}"


def parts(caches: Iterable[Any]) -> Generator[Any, None, None]:
    """Every cache, and in place of those that are made of others, these."""
    for cache in caches:
        if isinstance(cache, CacheList):
            yield from parts(cache.caches)
        else:
            yield cache


def _each(caches: Iterable[Any]) -> Generator[Any, None, None]:
    """All caches but those that hold nothing: a layer may take the choice of the one before it."""
    for cache in parts(caches):
        if not cache.empty() or isinstance(cache, State):
            yield cache
