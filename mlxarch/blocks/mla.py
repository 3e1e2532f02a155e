"""Multi-head latent attention: keys and values of all heads come from one small latent a token.

Shapes, besides attention.py's: R size of the latent   P rotated features   E features that are
not rotated   F features of a value
"""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlxarch import kv
from mlxarch.compat import CacheList, KVCache, MultiLinear

from .replay import replayed

# Queries that attend at once, and scores that are there at once: memory does not grow with either
# the prompt or the context.
_QUERIES = 256
_SCORES = 1 << 22


class LatentAttention(nn.Module):
    """Attention whose cache holds the latent and one rotated key a token, for all heads.

    Few queries are brought into the latent's space and attend there (absorbed); for many it is
    cheaper to expand the latents to keys and values once. Both are the same sum, and both go over
    the latents in tiles.

    Args:
        rope: Rotates the P features that all heads share; the others carry no position.
        softmax_factor: What a stretched RoPE multiplies the softmax scale by.

    Source: arXiv:2405.04434, section 2.1; transformers modeling_deepseek_v3.py.
    Twin: naive/mla.py.
    """

    window = None

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        query_rank: int,
        rank: int,
        head_dim: int,
        rotated_dim: int,
        value_dim: int,
        rope: Callable[..., mx.array],
        norm_eps: float,
        softmax_factor: float = 1.0,
    ):
        super().__init__()
        self.heads, self.rank, self.head_dim = heads, rank, head_dim
        self.scale = (head_dim + rotated_dim) ** -0.5 * softmax_factor
        self.rope = rope
        # Where expanding S latents, and attending to what comes of it, costs less per query.
        saved = 2 * rank - head_dim - value_dim
        self.expands_from = rank * (head_dim + value_dim) // saved if saved > 0 else mx.inf

        self.q_a_proj = nn.Linear(dim, query_rank, bias=False)
        self.q_a_norm = nn.RMSNorm(query_rank, eps=norm_eps)
        self.q_b_proj = nn.Linear(query_rank, heads * (head_dim + rotated_dim), bias=False)
        self.kv_a_proj = nn.Linear(dim, rank + rotated_dim, bias=False)
        self.kv_a_norm = nn.RMSNorm(rank, eps=norm_eps)
        self.embed_q = MultiLinear(head_dim, rank, heads)
        self.unembed_out = MultiLinear(rank, value_dim, heads)
        self.o_proj = nn.Linear(heads * value_dim, dim, bias=False)

    def __call__(self, x: mx.array, mask=None, cache=None) -> mx.array:
        """x (B, L, D) -> (B, L, D)."""
        start = 0 if cache is None else cache.offset
        _, q, rotated_q, latent, rotated = self._projected(x, start)
        if cache is not None:
            latent, rotated = cache.update_and_fetch(latent, rotated)  # (B, 1, S, R), (B, 1, S, P)
        return self._out(self._attend(q, rotated_q, latent, rotated))

    @replayed
    def _projected(self, x: mx.array, start) -> tuple[mx.array, ...]:
        """(B, L, D) -> compressed queries, and what `_queries` and `_latents` give."""
        compressed = self.q_a_norm(self.q_a_proj(x))
        return compressed, *self._queries(compressed, start), *self._latents(x, start)

    def _queries(self, compressed: mx.array, start) -> tuple[mx.array, mx.array]:
        """(B, L, query rank) -> (B, H, L, E), (B, H, L, P)."""
        B, L, _ = compressed.shape
        q = self.q_b_proj(compressed).reshape(B, L, self.heads, -1).swapaxes(1, 2)
        q, rotated = mx.split(q, [self.head_dim], axis=-1)
        return q, self.rope(rotated, offset=start)

    def _latents(self, x: mx.array, start) -> tuple[mx.array, mx.array]:
        """(B, L, D) -> (B, 1, L, R), (B, 1, L, P)."""
        latent, rotated = mx.split(self.kv_a_proj(x)[:, None], [self.rank], axis=-1)
        return self.kv_a_norm(latent), self.rope(rotated, offset=start)

    def _attend(self, q, rotated_q, latent, rotated) -> mx.array:
        """Each query attends to itself and all before it: (B, H, L, F)."""
        attend = self._expanded if q.shape[2] >= self.expands_from else self._absorbed
        return attend(q, rotated_q, latent, rotated)

    def _absorbed(self, q, rotated_q, latent, rotated) -> mx.array:
        """Attends in the latent's space, where all heads' queries share one key: (B, H, L, F)."""
        B, H, L, _ = q.shape
        q = self.embed_q(q)
        # One head with L * H queries, token by token.
        q, rotated_q = q.swapaxes(1, 2), rotated_q.swapaxes(1, 2)
        q, rotated_q = q.reshape(B, 1, L * H, -1), rotated_q.reshape(B, 1, L * H, -1)
        out = causal(q, rotated_q, latent, rotated, self.scale, lambda c: (c, c), repeats=H)
        return self.unembed_out(out.reshape(B, L, H, -1).swapaxes(1, 2))

    def _expanded(self, q, rotated_q, latent, rotated) -> mx.array:
        """Attends head by head: (B, H, L, F)."""

        def expand(tile):
            return self.embed_q(tile, transpose=False), self.unembed_out(tile)  # (B, H, s, E or F)

        return causal(q, rotated_q, latent, rotated, self.scale, expand)

    def _out(self, x: mx.array) -> mx.array:
        B, _, L, _ = x.shape
        return self.o_proj(x.swapaxes(1, 2).reshape(B, L, -1))

    def make_cache(self, bits: int | None = None) -> kv.Cache | CacheList:
        """An empty cache: R + P numbers a token.

        In few bits are the R alone, as in deepseek-ai/FlashMLA: the P are few, and touchier.
        """
        return kv.cache(KVCache, bits, self.rank, None)

    def make_mask(self, x: mx.array, cache=None) -> Any:
        """None: who sees whom follows from the positions."""
        return


def causal(
    q: mx.array,
    rotated_q: mx.array,
    latent: kv.Rows,
    rotated: mx.array,
    scale: float,
    expand: Callable[[mx.array], tuple[mx.array, mx.array]],
    repeats: int = 1,
) -> mx.array:
    """Causal attention in tiles of queries and keys: each tile's softmax, weighed by its sum.

    Shapes: q (B, H, n, E)   rotated_q (B, H, n, P)   latent (B, 1, S, R)   rotated (B, 1, S, P)
        -> (B, H, n, F)
    Precision: scores and their softmax in float32.

    Args:
        expand: A tile of latents (B, 1, s, R) -> its keys (B, H, s, E) and values (B, H, s, F).
        repeats: Queries of a token; the n / repeats tokens are the last of the S.

    Source: arXiv:2112.05682, section 2; arXiv:2205.14135, section 3.1.
    """
    B, H, n, _ = q.shape
    S = latent.shape[2]
    if n <= _QUERIES and B * H * n * S <= _SCORES:
        k, v = expand(kv.taken(latent, lambda x: x))
        near = rotated_q @ rotated.swapaxes(-1, -2)
        scores = mx.addmm(near, q, k.swapaxes(-1, -2)).astype(mx.float32) * scale
        if n > repeats:
            scores = _past(scores, S - n // repeats, slice(0, n), slice(0, S), repeats)
        return mx.softmax(scores, axis=-1).astype(v.dtype) @ v
    start = S - n // repeats  # position of the first query
    rows = [slice(i, min(i + _QUERIES, n)) for i in range(0, n, _QUERIES)]
    width = max(1, _SCORES // (B * H * min(n, _QUERIES)))
    parts: dict[int, tuple[mx.array, mx.array]] = {}  # of each run of queries, so far
    done: list[mx.array] = []
    for first in range(0, S, width):
        tile = slice(first, min(first + width, S))
        # Without dependence all tiles could be there at once.
        own = kv.taken(latent, lambda x, at=tile, after=done: mx.depends(x[:, :, at], after))
        k, v = expand(own)
        keys, rotated_keys = k.swapaxes(-1, -2), rotated[:, :, tile].swapaxes(-1, -2)
        for i, row in enumerate(rows):
            earliest, latest = (start + at // repeats for at in (row.start, row.stop - 1))
            if tile.start > latest:
                continue
            seen = slice(0, min(tile.stop, latest + 1) - tile.start)
            near = mx.depends(rotated_q[:, :, row], done) @ rotated_keys[..., seen]
            scores = mx.addmm(near, q[:, :, row], keys[..., seen]).astype(mx.float32) * scale
            if tile.stop - 1 > earliest:
                near = slice(tile.start, tile.start + seen.stop)
                scores = _past(scores, start, row, near, repeats)
            part = mx.softmax(scores, axis=-1).astype(v.dtype) @ v[:, :, seen]
            parts[i] = _joined(parts.get(i), part, mx.logsumexp(scores, axis=-1, keepdims=True))
            done = [parts[i][0]]
    return mx.concatenate([part for part, _ in parts.values()], axis=2)


def _past(scores: mx.array, start: int, rows: slice, keys: slice, repeats: int) -> mx.array:
    """Scores of some queries and keys, without what comes after a query."""
    positions = start + mx.arange(rows.start, rows.stop)[:, None] // repeats
    past = mx.arange(keys.start, keys.stop) <= positions
    return mx.where(past, scores, mx.finfo(mx.float32).min)


def _joined(before, part, size):
    """Two averages, each weighed by exp(size), and the size of both together."""
    if before is None:
        return part, size
    other, its_size = before
    both = mx.logaddexp(size, its_size)
    out = other * mx.exp(its_size - both) + part * mx.exp(size - both)
    return out.astype(part.dtype), both
