"""Points of a conversation that can be gone back to: what of the caches there cannot be cut.

Rows of a whole history are cut, never copied. A recurrent state is kept as it was. Of a window only
those rows are kept that the mark after it does not have: all marks together hold no more rows than
there are tokens, and one window.
"""

import copy
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from .compat import KVCache, RotatingKVCache
from .pace import Pace
from .rollback import parts

_MOST = 64
# The last messages' ends are marked wherever they are, but for those that are next to another.
_LATEST, NEAR, _BESIDE = 4, 16, 4


def places(prompt: Sequence[int], done: int, mark: int, ends: Set[int], pace: Pace) -> list[int]:
    """Where a prompt is to be marked: after how many of its tokens, the most first.

    At `mark`, and where the last messages before it end, which is after a token of `ends`; at
    earlier ones only as far as what is read at once does not become small pieces. In place of one
    that is near, the point that is reached already, after `done` tokens.
    """
    found, last = [mark], len(prompt) - 1
    for end in range(last - 1, max(done, 1) - 1, -1):
        if prompt[end - 1] not in ends:
            continue
        near = NEAR if len(found) < _LATEST else max(NEAR, pace.tokens // 2)
        if end <= found[-1] - near:
            found.append(end)
    return [done if 0 < place - done <= _BESIDE else place for place in found]


@dataclass
class Rows:
    """Some rows (B, K, n, E) of a window, in order; the first is that of token `start`."""

    keys: mx.array
    values: mx.array
    start: int

    @property
    def end(self) -> int:
        """The token after the last."""
        return self.start + self.keys.shape[2]

    def between(self, start: int, end: int) -> "Rows":
        """Those of some tokens, in the same memory."""
        a, b = start - self.start, end - self.start
        return Rows(self.keys[..., a:b, :], self.values[..., a:b, :], start)

    def alone(self) -> "Rows":
        """These in memory of their own."""
        return Rows(mx.contiguous(self.keys), mx.contiguous(self.values), self.start)

    def completed(self, end: int, later: Iterable["Rows"]) -> "Rows":
        """These and those up to a token, of which each that follows has the next ones."""
        reached, keys, values = self.end, [self.keys], [self.values]
        for more in later:
            if reached >= end:
                break
            some = slice(reached - more.start, min(end, more.end) - more.start)
            keys.append(more.keys[..., some, :])
            values.append(more.values[..., some, :])
            reached = min(end, more.end)
        if len(keys) == 1:
            return self
        return Rows(mx.concatenate(keys, axis=2), mx.concatenate(values, axis=2), self.start)


@dataclass
class Mark:
    """One point, and what is kept there."""

    length: int  # tokens
    states: list[Any]  # a window's rows or a state's arrays; None for what is cut

    @property
    def arrays(self) -> list[mx.array]:
        """All that is kept."""
        found: list[mx.array] = []
        for state in self.states:
            found += [state.keys, state.values] if isinstance(state, Rows) else state or []
        return found


class Marks:
    """The points that can be gone back to, the first tokens first.

    Args:
        room: Bytes that they may take; the last one is kept whatever it takes.
    """

    def __init__(self, room: int):
        self.room = room
        self.all: list[Mark] = []

    @property
    def lengths(self) -> list[int]:
        """How many tokens lie before each."""
        return [mark.length for mark in self.all]

    @property
    def arrays(self) -> list[mx.array]:
        """All that is kept."""
        return [array for mark in self.all for array in mark.arrays]

    @property
    def nbytes(self) -> int:
        """What they take."""
        return sum(array.nbytes for array in self.arrays)

    def copied(self) -> "Marks":
        """The same marks, to which other things may happen."""
        new = Marks(self.room)
        new.all = [Mark(mark.length, list(mark.states)) for mark in self.all]
        return new

    def add(self, caches: Iterable[Any], length: int, *, at_once: bool = True) -> None:
        """Mark where the caches are, after so many tokens, which is beyond all marks.

        Args:
            at_once: Copy now what is kept, not when the caches change.
        """
        mark = Mark(length, [_state(part, length) for part in parts(caches)])
        if self.all:
            self._shorten(self.all[-1], mark)
        self.all.append(mark)
        if at_once:
            mx.eval([each.arrays for each in self.all[-2:]])
        while len(self.all) > 1 and (len(self.all) > _MOST or self.nbytes > self.room):
            self._drop(self._dispensable())

    def shed(self) -> None:
        """Forget all but the last."""
        while len(self.all) > 1:
            self._drop(0)

    def nearest(self, length: int) -> int:
        """The longest mark within the first `length` tokens; 0 if there is none."""
        return max((each for each in self.lengths if each <= length), default=0)

    def forget(self, length: int) -> None:
        """Forget the marks beyond the first `length` tokens."""
        gone = [mark for mark in self.all if mark.length > length]
        del self.all[len(self.all) - len(gone) :]
        if self.all and gone:
            self._complete(self.all[-1], gone)
            mx.eval(self.all[-1].arrays)

    def restore(self, caches: Iterable[Any], length: int, surplus: int) -> None:
        """Bring caches that are `surplus` tokens beyond a mark back to it; later ones are gone."""
        self.forget(length)
        for part, state in zip(parts(caches), self.all[-1].states, strict=True):
            if state is None:
                part.trim(surplus)
            elif isinstance(state, Rows):
                # Caches assign to slices of their arrays, in place.
                part.keys, part.values = copy.copy(state.keys), copy.copy(state.values)
                part.offset, part._idx = length, state.keys.shape[2]
            else:
                part.cache = list(state)

    def _dispensable(self) -> int:
        """Which one is missed least: of many that are near each other and far back."""
        lengths = [0, *self.lengths]

        def missed(i: int) -> float:
            return (lengths[i + 1] - lengths[i - 1]) / (lengths[-1] - lengths[i])

        return min(range(1, len(lengths) - 1), key=missed) - 1

    def _drop(self, i: int) -> None:
        """Forget one; what the mark before it shares with it stays."""
        gone = self.all.pop(i)
        if i == 0:
            return
        before, *after = self.all[i - 1 : i + 1]
        self._complete(before, [gone])
        for each in after:
            self._shorten(before, each)
        mx.eval(before.arrays)

    def _complete(self, mark: Mark, later: Sequence[Mark]) -> None:
        """Add to a mark what those after it have in its stead."""
        for n, state in enumerate(mark.states):
            if isinstance(state, Rows):
                mark.states[n] = state.completed(mark.length, (each.states[n] for each in later))

    def _shorten(self, mark: Mark, after: Mark) -> None:
        """Leave out of a mark what the one after it has as well."""
        for n, (state, more) in enumerate(zip(mark.states, after.states, strict=True)):
            if isinstance(state, Rows):
                end = max(state.start, min(state.end, more.start))
                mark.states[n] = state.between(state.start, end).alone()


def _state(part: Any, length: int) -> Any:
    """What is to be kept of a cache to come back to it."""
    if isinstance(part, KVCache):
        return None
    if not isinstance(part, RotatingKVCache):
        return list(part.cache)
    keys, values = (part._temporal_order(x) for x in (part.keys, part.values))
    rows = Rows(keys, values, length - keys.shape[2])
    return rows.between(max(rows.start, length - part.max_size), length)
