"""Keys and values in 8 or 4 bits: the cache that keeps them so, and products with its rows.

Every run of 64 numbers of a row, or 32 where 64 does not divide it, shares a scale and a bias.
Rows are never all unpacked at once: a few queries are multiplied with them as they are, for many
it is cheaper to unpack some heads, attend, and let go of them again.

Shapes as in blocks/attention.py.   Source: mx.quantize, mode "affine".
"""

from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import chain
from typing import Any

import mlx.core as mx

from .compat import CacheList, KVCache, RotatingKVCache
from .compat import attend as attend_plainly
from .rollback import State

BITS = (8, 4)
_GROUPS = (64, 32)
_FEW = 8  # queries a head, for which rows are not unpacked
_AT_ONCE = 1 << 20  # numbers of keys and values that are unpacked together, or those of one head

Cache = KVCache | RotatingKVCache


@dataclass(frozen=True)
class Packed:
    """Rows (B, K, S, E) in few bits."""

    numbers: mx.array  # (B, K, S, E * bits / 32) uint32
    scales: mx.array  # (B, K, S, groups of E)
    biases: mx.array
    bits: int

    @property
    def shape(self) -> tuple[int, ...]:
        """(B, K, S, E)."""
        return (*self.numbers.shape[:-1], self.numbers.shape[-1] * 32 // self.bits)

    @property
    def group(self) -> int:
        """Numbers that share a scale and a bias."""
        return self.shape[-1] // self.scales.shape[-1]

    def each(self, do: Callable[[mx.array], mx.array]) -> "Packed":
        """The rows that are left when all parts are cut or gathered alike."""
        return Packed(do(self.numbers), do(self.scales), do(self.biases), self.bits)

    def unpacked(self) -> mx.array:
        """The rows in the type of their scales."""
        return mx.dequantize(self.numbers, self.scales, self.biases, self.group, self.bits)


Rows = mx.array | Packed


class QuantizedCache(CacheList):
    """A cache in few bits, made of plain ones that each hold two parts of every row.

    So it grows, turns, is cut and steps back as those do.

    Args:
        kind: Makes an empty plain cache.
        groups: Numbers of a key, and of a value, that share a scale; None keeps them as they are.
    """

    def __init__(self, kind: Callable[[], Cache], bits: int, groups: Sequence[int | None]):
        self.bits, self._groups = bits, groups
        arrays = sum(1 if group is None else 3 for group in groups)
        super().__init__(*(kind() for _ in range(arrays // 2)))

    @property
    def offset(self) -> int:
        """Tokens that were taken."""
        return self.caches[0].offset

    @property
    def whole(self) -> bool:
        """Whether keys and values are both in few bits."""
        return None not in self._groups

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> list[Rows]:
        """Take rows (B, K, L, E); all keys and all values in view (B, K, S, E)."""
        new = [
            [rows] if group is None else mx.quantize(rows, group, self.bits)
            for rows, group in zip((keys, values), self._groups, strict=True)
        ]
        # Where it can be, like beside like: rows of a batch's caches are of one type.
        order = [*chain(*zip(*new, strict=True))] if self.whole else [*chain(*new)]
        pairs = zip(self.caches, order[::2], order[1::2], strict=True)
        found = [part for cache, a, b in pairs for part in cache.update_and_fetch(a, b)]
        count = len(new[0])
        each = (found[::2], found[1::2]) if self.whole else (found[:count], found[count:])
        return [
            Packed(*parts, bits=self.bits) if group else parts[0]
            for parts, group in zip(each, self._groups, strict=True)
        ]

    def make_mask(self, *args: Any, **kwargs: Any) -> mx.array | str | None:
        """What the plain caches say."""
        return self.caches[0].make_mask(*args, **kwargs)

    @classmethod
    def merge(cls, caches: Sequence["QuantizedCache"]) -> "QuantizedCache":
        """One for a batch, of a row each; mlx-lm's server makes such."""
        parts = zip(*(each.caches for each in caches), strict=True)
        return caches[0]._of(part[0].merge(part) for part in parts)

    def extract(self, idx: int) -> "QuantizedCache":
        """That of one row of a batch."""
        return self._of(part.extract(idx) for part in self.caches)

    def _of(self, parts: Iterable[Any]) -> "QuantizedCache":
        other = copy(self)
        other.caches = tuple(parts)
        return other


def cache(
    kind: Callable[[], Cache], bits: int | None, key: int, value: int | None
) -> Cache | QuantizedCache:
    """An empty cache for keys and values of such sizes, in few bits where that is asked for.

    What no group divides, and values whose size is not told, stay as they are.

    Raises: ValueError if there is no such number of bits.
    """
    if bits is None:
        return kind()
    if bits not in BITS:
        raise ValueError(f"a cache has {bits} bits; 8 and 4 are known, and None")
    groups = [
        next((group for group in _GROUPS if size and size % group == 0), None)
        for size in (key, value)
    ]
    return kind() if groups == [None, None] else QuantizedCache(kind, bits, groups)


def remark(caches: Sequence[Any], bits: int) -> str:
    """What a model's caches do not keep in so many bits, in a sentence; empty if there is none."""
    found = {
        "{} recurrent states": sum(isinstance(entry, State) for entry in caches),
        "{} layers with rows that are no multiple of 32": sum(
            isinstance(_first(entry), Cache) for entry in caches
        ),
        "rotated keys of latents": any(
            isinstance(part := _first(entry), QuantizedCache) and not part.whole for entry in caches
        ),
        "indexer keys": any(entry is not _first(entry) for entry in caches),
    }
    kept = [words.format(count) for words, count in found.items() if count]
    if not kept:
        return ""
    some = any(isinstance(_first(entry), QuantizedCache) for entry in caches)
    words = "The cache is kept in {} bits, except for" if some else "No cache is kept in {} bits:"
    return f"{words.format(bits)} {' and '.join(', '.join(kept).rsplit(', ', 1))}."


def _first(entry: Any) -> Any:
    """What a layer attends to; a second cache beside it is its indexer's."""
    plain = type(entry) is CacheList
    return entry[0] if plain else entry


def times(x: mx.array, rows: Rows, *, transpose: bool = False) -> mx.array:
    """x (B, H, L, S) by rows (B, K, S, E) -> (B, H, L, E); transposed, the other way round."""
    B, H, L, _ = x.shape
    x = x.reshape(B, rows.shape[1], -1, x.shape[-1])  # (B, K, H / K * L, S or E)
    if isinstance(rows, Packed):
        parts = (rows.numbers, rows.scales, rows.biases)
        out = mx.quantized_matmul(x, *parts, transpose, rows.group, rows.bits)
    else:
        out = x @ (rows.swapaxes(-1, -2) if transpose else rows)
    return out.reshape(B, H, L, -1)


def taken(rows: Rows, do: Callable[[mx.array], mx.array]) -> mx.array:
    """The rows that are cut or gathered so, as numbers to compute with."""
    return rows.each(do).unpacked() if isinstance(rows, Packed) else do(rows)


def causal(queries: int, keys: int) -> mx.array:
    """Which keys each of the last queries sees: (L, S) bool."""
    return mx.arange(keys) <= mx.arange(keys - queries, keys)[:, None]


def attend(q: mx.array, k: Rows, v: Rows, *, cache: Any, scale: float, mask: Any) -> mx.array:
    """Softmax attention of q (B, H, L, E) to what `cache` fetched: (B, H, L, E of the values).

    The mask is (L, S) bool, "causal" or nothing.
    """
    if not isinstance(k, Packed) and not isinstance(v, Packed):
        return attend_plainly(q, k, v, cache=cache, scale=scale, mask=mask)
    if q.shape[2] > _FEW:
        return _head_by_head(q, k, v, scale, mask)
    scores = times(q * scale, k, transpose=True)
    if mask is not None:
        seen = causal(*scores.shape[2:]) if isinstance(mask, str) else mask
        scores = mx.where(seen, scores, -mx.inf)
    return times(mx.softmax(scores, axis=-1, precise=True), v)


def _head_by_head(q: mx.array, k: Rows, v: Rows, scale: float, mask) -> mx.array:
    """Attends with a few key/value heads at a time, all of them unpacked."""
    B, K, S, E = k.shape
    run, shared = max(1, _AT_ONCE // (B * S * (E + v.shape[-1]))), q.shape[1] // K
    out: list[mx.array] = []
    for start in range(0, K, run):
        keys, values = (_heads(rows, slice(start, start + run), after=out[-1:]) for rows in (k, v))
        queries = q[:, start * shared : (start + run) * shared]
        out.append(
            mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask)
        )
    return mx.concatenate(out, axis=1)


def _heads(rows: Rows, which: slice, after: list[mx.array]) -> mx.array:
    """Some heads, unpacked; not before what they are to come after is there."""

    return taken(rows, lambda part: mx.depends(part[:, which], after))
