"""A branch of what was read as named arrays, and back again: what a file of it holds.

`tokens`, `asked` and `marks` are numbers of tokens. `3.0` is the first array of the cache's third
part, `3.at` where its window stands; with `mark.2.` before them they are those of a mark.
"""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import numpy as np

from .branch import Branch
from .compat import KVCache, RotatingKVCache
from .errors import FormatError
from .marks import Mark, Rows
from .rollback import parts


def arrays_of(branch: Branch) -> dict[str, mx.array]:
    """All of a branch that has read something; rows that are cut off buffers are not copied."""
    found = {
        "tokens": mx.array(branch.tokens, dtype=mx.int32),
        "asked": mx.array([branch.asked], dtype=mx.int32),
        "marks": mx.array(branch.marks.lengths, dtype=mx.int32),
    }
    for i, part in enumerate(parts(branch.caches)):
        if part.empty():
            continue
        if isinstance(part, KVCache):
            keys, values, offset = part.state
            own = [x[..., :offset, :] for x in (keys, values)]
        elif isinstance(part, RotatingKVCache):
            own = [part.keys, part.values]
            found[f"{i}.at"] = mx.array([part.offset, part._idx], dtype=mx.int32)
        else:
            own = part.cache
        found |= {f"{i}.{n}": array for n, array in enumerate(own)}
    for m, mark in enumerate(branch.marks.all):
        for i, state in enumerate(mark.states):
            if isinstance(state, Rows):
                found[f"mark.{m}.{i}.at"] = mx.array([state.start], dtype=mx.int32)
                state = [state.keys, state.values]
            found |= {f"mark.{m}.{i}.{n}": array for n, array in enumerate(state or [])}
    return found


def take(branch: Branch, arrays: Mapping[str, mx.array]) -> None:
    """Fill an empty branch with what `arrays_of` gave, of the same model.

    Raises: FormatError if it is not of such a model, or does not agree with itself.
    """
    reader = _Reader(dict(arrays))
    tokens = reader.numbers("tokens")
    (asked,), lengths = reader.numbers("asked", 1), reader.numbers("marks")
    reader.check(bool(tokens) and lengths == sorted(set(lengths)))
    reader.check(not lengths or 0 < lengths[0] <= lengths[-1] <= len(tokens))
    # What one token leaves has the types and shapes of what many do, but for the rows.
    like = branch.empty_caches()
    branch.model.hidden(mx.array([[0]]), like)
    branch.tokens, branch.asked, branch.caches = tokens, asked, branch.empty_caches()
    marks = [Mark(length, []) for length in lengths]
    for i, (part, one) in enumerate(zip(parts(branch.caches), parts(like), strict=True)):
        if one.empty():
            states: list[Any] = [None if isinstance(one, KVCache) else []] * len(marks)
        elif isinstance(one, KVCache):
            part.state = (*reader.rows(f"{i}.", one, len(tokens)), len(tokens))
            states = [None] * len(marks)
        elif isinstance(one, RotatingKVCache):
            offset, index = reader.numbers(f"{i}.at", 2)
            part.keys, part.values = reader.rows(f"{i}.", one)
            rows = part.keys.shape[2]
            reader.check(offset == len(tokens) and min(offset, one.max_size) <= rows)
            reader.check(min(offset, 1) <= index <= rows)
            part.offset, part._idx = offset, index
            states = _windows(reader, i, one, lengths)
        else:
            part.cache = reader.like(f"{i}.", one.cache)
            states = [reader.like(f"mark.{m}.{i}.", one.cache) for m in range(len(marks))]
        for mark, state in zip(marks, states, strict=True):
            mark.states.append(state)
    reader.check(not reader.arrays)
    branch.marks.all[:] = marks


def _windows(reader: "_Reader", i: int, one: Any, lengths: list[int]) -> list[Rows]:
    """Of each mark, the rows that the one after it does not have."""
    starts = [max(0, length - one.max_size) for length in lengths]
    found: list[Rows] = []
    for m, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        end = min([length, *starts[m + 1 : m + 2]])
        name = f"mark.{m}.{i}."
        reader.check(reader.numbers(f"{name}at", 1) == [start])
        found.append(Rows(*reader.rows(name, one, end - start), start=start))
    return found


class _Reader:
    """Arrays that are taken one by one, each once, and not trusted."""

    def __init__(self, arrays: dict[str, mx.array]):
        self.arrays = arrays

    def check(self, agrees: bool) -> None:
        """Raise FormatError if something is not as it has to be."""
        if not agrees:
            raise FormatError("What was kept does not agree with itself, or is another model's.")

    def numbers(self, name: str, count: int | None = None) -> list[int]:
        """Whole numbers."""
        array = self._take(name)
        self.check(array.dtype == mx.int32 and array.ndim == 1 and count in (None, array.size))
        return np.asarray(array).tolist()

    def rows(self, name: str, one: Any, count: int | None = None) -> list[mx.array]:
        """Keys and values like a cache's, as many as wanted."""
        found = [self._take(f"{name}{n}") for n in range(2)]
        for array, like in zip(found, (one.keys, one.values), strict=True):
            wanted = (*like.shape[:2], array.shape[2:3], *like.shape[3:])
            self.check(array.ndim == 4 and array.dtype == like.dtype)
            self.check((*array.shape[:2], array.shape[2:3], *array.shape[3:]) == wanted)
        self.check(found[0].shape[2] == found[1].shape[2])
        self.check(count in (None, found[0].shape[2]))
        return found

    def like(self, name: str, wanted: list[mx.array]) -> list[mx.array]:
        """Arrays of the types and shapes of others."""
        found = [self._take(f"{name}{n}") for n in range(len(wanted))]
        pairs = zip(found, wanted, strict=True)
        self.check(all(a.dtype == b.dtype and a.shape == b.shape for a, b in pairs))
        return found

    def _take(self, name: str) -> mx.array:
        self.check(name in self.arrays)
        return self.arrays.pop(name)
