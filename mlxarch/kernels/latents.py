"""Latent attention on numpy's arrays: products by BLAS, side by side for heads or queries.

Shapes as in mlxarch/blocks/mla.py and sparse.py.
"""

from typing import Any, cast

import mlx.core as mx
import numpy as np

from mlxarch import backend, compat, kv
from mlxarch.blocks import mla, sparse

from . import blas, tiles
from .cache import KVCache
from .layers import Quick, apply
from .matrices import FEW_FLOATS, Matrices

# Index scores that a thread keeps until their queries have chosen.
_SCORES = 1 << 20


class LatentAttention(Quick, mla.LatentAttention):
    """All of it; a layer's latents in few bits are unpacked for the time that it computes."""

    def numbers(self, x: np.ndarray, mask: Any = None, cache: Any = None) -> np.ndarray:
        """x (B, L, D) -> (B, L, D)."""
        start = 0 if cache is None else cache.offset
        compressed = apply(self.q_a_norm, apply(self.q_a_proj, x))
        q, rotated_q = self._asked(compressed, start)
        latent, rotated = self._remembered(x, start, cache)
        return self._given(self._found(q, rotated_q, latent, rotated))

    def make_cache(self, bits: int | None = None) -> Any:
        """As ever, but that numpy may write into a plain one."""
        return _ours(super().make_cache(bits))

    def _asked(self, compressed: np.ndarray, start: Any) -> tuple[np.ndarray, np.ndarray]:
        """(B, L, query rank) -> (B, H, L, E), (B, H, L, P)."""
        q = apply(self.q_b_proj, compressed).reshape(*compressed.shape[:2], self.heads, -1)
        q = q.swapaxes(1, 2)
        return q[..., : self.head_dim], apply(self.rope, q[..., self.head_dim :], start)

    def _remembered(self, x: np.ndarray, start: Any, cache: Any) -> tuple[np.ndarray, np.ndarray]:
        """All latents (B, 1, S, R) and rotated keys (B, 1, S, P), those of x (B, L, D) the last."""
        both = apply(self.kv_a_proj, x)[:, None]
        latent = apply(self.kv_a_norm, both[..., : self.rank])
        return _put(cache, latent, apply(self.rope, both[..., self.rank :], start))

    def _found(
        self, q: np.ndarray, rotated_q: np.ndarray, latent: np.ndarray, rotated: np.ndarray
    ) -> np.ndarray:
        """As `_attend`."""
        to_keys = Matrices.known(self.embed_q, (self.embed_q,))
        to_values = Matrices.known(self.unembed_out, (self.unembed_out,))
        if to_keys is None or to_values is None:
            return np.asarray(self._attend(*map(mx.array, (q, rotated_q, latent, rotated))))
        rows = latent[:, 0], rotated[:, 0]
        if q.shape[2] < self.expands_from:
            return self._by_latents(q, rotated_q, *rows)
        q = np.concatenate([q, rotated_q], axis=-1)
        return self._by_head(q, *rows, to_keys, to_values)

    def _by_latents(
        self, q: np.ndarray, rotated_q: np.ndarray, latent: np.ndarray, rotated: np.ndarray
    ) -> np.ndarray:
        """Attends in the latent's space: all heads' queries to latent (B, S, R)."""
        B, H, L, _ = q.shape
        q = np.concatenate([apply(self.embed_q, q), rotated_q], axis=-1)
        q = np.ascontiguousarray(q.swapaxes(1, 2)).reshape(B, L * H, -1)  # token by token
        n, S, R = L * H, *latent.shape[1:]
        out = np.empty((B, n, R), np.float32)
        # Few tokens one by one: what is found for each does not depend on others, to the bit.
        together = H if L <= FEW_FLOATS else n
        rows = min(tiles.ROWS, -(-together // backend.cores()))
        parts = -(-together // rows)

        def part(i: int) -> None:
            (b, first), j = divmod(i // parts * together, n), i % parts
            some = slice(first + j * rows, first + min((j + 1) * rows, together))

            def expand(tile: slice) -> tuple[np.ndarray, np.ndarray]:
                keys = np.concatenate([latent[b, tile], rotated[b, tile]], axis=1)
                return keys, keys[:, :R]

            tiles.attend(q[b, some], some.start, S - L, H, S, self.scale, expand, out[b, some])

        blas.each(part, B * n // together * parts, B * n * S * 2 * R)
        return apply(self.unembed_out, out.reshape(B, L, H, R).swapaxes(1, 2))

    def _by_head(
        self,
        q: np.ndarray,
        latent: np.ndarray,
        rotated: np.ndarray,
        to_keys: Matrices,
        to_values: Matrices,
    ) -> np.ndarray:
        """Attends head by head to what each makes of latent (B, S, R)."""
        B, H, L, width = q.shape
        S, F, E = latent.shape[1], to_values.width, self.head_dim
        out = np.empty((B, H, L, F), np.float32)

        def head(i: int) -> None:
            b, h = divmod(i, H)
            for_keys, for_values = to_keys.unpacked(0, h), to_values.unpacked(0, h).T

            def expand(tile: slice) -> tuple[np.ndarray, np.ndarray]:
                some = latent[b, tile]
                keys = np.empty((len(some), width), np.float32)
                keys[:, :E], keys[:, E:] = some @ for_keys, rotated[b, tile]
                return keys, some @ for_values

            tiles.attend(q[b, h], 0, S - L, 1, S, self.scale, expand, out[b, h])

        blas.each(head, B * H, B * H * L * S * (width + F))
        return out

    def _given(self, x: np.ndarray) -> np.ndarray:
        """(B, H, L, F) -> (B, L, D)."""
        B, _, L, _ = x.shape
        return apply(self.o_proj, np.ascontiguousarray(x.swapaxes(1, 2)).reshape(B, L, -1))


class Indexer(sparse.Indexer):
    """Scores by BLAS, tile by tile, where it is asked for numpy's arrays."""

    def choose(
        self, x: np.ndarray, compressed: np.ndarray, start: Any, cache: Any
    ) -> np.ndarray | None:
        """As its call."""
        B, L, _ = x.shape
        keys = apply(self.rope, apply(self.k_norm, apply(self.wk, x))[:, None], start)
        keys = _put(cache, keys[..., : self.rotated_dim], keys[..., self.rotated_dim :])
        S = keys[0].shape[2]
        if self.top_k >= S:
            return None
        keys = np.concatenate(keys, axis=-1)[:, 0]  # (B, S, E)
        q = apply(self.wq_b, compressed).reshape(B, L, self.heads, -1).swapaxes(1, 2)
        q = np.ascontiguousarray(apply(self.rope, q, start).swapaxes(1, 2))  # (B, L, I, E)
        # Negated: the least are the best.
        weights = apply(self.weights_proj, x) * np.float32(-self.scale)
        chosen = np.empty((B, L, self.top_k), np.int64)
        rows = max(1, min(tiles.ROWS // self.heads, _SCORES // S, -(-L // backend.cores())))
        rows = 1 if L <= FEW_FLOATS else rows  # so that others do not matter, to the bit
        parts = -(-L // rows)

        def part(i: int) -> None:
            b, some = i // parts, _run(i % parts, rows, L)
            near = max(S - L + some.stop, self.top_k)  # what comes after, none of these sees
            scores = _index_scores(q[b, some], weights[b, some], keys[b, :near])
            for t in range(len(scores)):
                scores[t, S - L + some.start + t + 1 :] = np.inf
            bound = np.partition(scores, self.top_k - 1, axis=1)[:, self.top_k - 1]
            tiles.pick(scores, np.ascontiguousarray(bound), chosen[b, some])

        blas.each(part, B * parts, q.size * S)
        return chosen


class SparseLatentAttention(LatentAttention, sparse.SparseLatentAttention):
    """Gathers what each query has chosen, and attends by BLAS."""

    def numbers(self, x: np.ndarray, mask: Any = None, cache: Any = None) -> np.ndarray:
        """x (B, L, D) -> (B, L, D)."""
        latents, keys = (None, None) if cache is None else cache
        start = 0 if latents is None else latents.offset
        compressed = apply(self.q_a_norm, apply(self.q_a_proj, x))
        q, rotated_q = self._asked(compressed, start)
        latent, rotated = self._remembered(x, start, latents)
        if self.indexer is not None:
            mask.chosen = cast(Indexer, self.indexer).choose(x, compressed, start, keys)
        if mask.chosen is None:
            return self._given(self._found(q, rotated_q, latent, rotated))
        return self._given(self._chosen(q, rotated_q, latent, rotated, mask.chosen))

    def _chosen(
        self,
        q: np.ndarray,
        rotated_q: np.ndarray,
        latent: np.ndarray,
        rotated: np.ndarray,
        chosen: Any,
    ) -> np.ndarray:
        """As `_gathered`."""
        B, H, L, _ = q.shape
        q = np.concatenate([apply(self.embed_q, q), rotated_q], axis=-1)
        q = np.ascontiguousarray(q.swapaxes(1, 2))  # (B, L, H, R + P)
        S, R, T = *latent.shape[2:], chosen.shape[-1]
        out = np.empty((B, L, H, R), np.float32)
        rows = min(tiles.ROWS, -(-L // backend.cores()))
        parts = -(-L // rows)

        def part(i: int) -> None:
            b, some = i // parts, _run(i % parts, rows, L)
            near, scores = np.empty((T, q.shape[-1]), np.float32), np.empty((H, T), np.float32)
            for t in range(some.start, some.stop):
                tiles.gather(latent[b, 0], rotated[b, 0], chosen[b, t], near)
                np.matmul(q[b, t], near.T, out=scores)
                tiles.share_chosen(scores, chosen[b, t], S - L + t, self.scale)
                np.matmul(scores, near[:, :R], out=out[b, t])

        blas.each(part, B * parts, q.size * T * 2)
        return apply(self.unembed_out, out.swapaxes(1, 2))


def _index_scores(q: np.ndarray, weights: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """q (l, I, E), weights (l, I), keys (s, E) -> (l, s)."""
    flat, heads = q.reshape(-1, q.shape[-1]), q.shape[1]
    out = np.empty((len(q), len(keys)), np.float32)
    for first in range(0, len(keys), tiles.COLUMNS):
        tile = slice(first, first + tiles.COLUMNS)
        found = (flat @ keys[tile].T).reshape(len(q), heads, -1)
        tiles.weigh(found, weights, out[:, tile])
    return out


def _put(cache: Any, keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All keys and values (B, 1, S, ...) there are with new ones (B, 1, L, ...)."""
    if cache is None:
        return keys, values
    if isinstance(cache, KVCache):
        return cache.put(keys, values)
    rows, others = cache.update_and_fetch(mx.array(keys), mx.array(values))
    rows = rows.unpacked() if isinstance(rows, kv.Packed) else rows
    mx.eval(rows, others)
    return np.asarray(rows), np.asarray(others)


def _ours(cache: Any) -> Any:
    """A cache that numpy may write into, in the place of a plain one."""
    if type(cache) is compat.CacheList:
        return compat.CacheList(*map(_ours, cache.caches))
    return KVCache() if type(cache) is compat.KVCache else cache


def _run(i: int, each: int, length: int) -> slice:
    """The i-th run of so many."""
    return slice(i * each, min((i + 1) * each, length))
