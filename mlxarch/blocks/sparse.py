"""Latent attention to a few chosen tokens: DeepSeek Sparse Attention.

Shapes, besides mla.py's: I index heads   T chosen tokens
"""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlxarch import kv
from mlxarch.compat import CacheList, KVCache

from .mla import LatentAttention
from .replay import replayed

# Queries whose scores are kept until they have chosen, and numbers that are gathered or scored at
# once: memory does not grow with the prompt. One such tile waits for the other.
_QUERIES = 256
_BUDGET = 1 << 23


class Indexer(nn.Module):
    """Scores every token seen for each query, with a few small heads, and names the best.

    Scores are in float32 whatever x is.

    Args:
        rope: Rotates the first `rotated_dim` features of queries and keys.

    Source: DeepSeek-V3.2, section 2.1; transformers modeling_glm_moe_dsa.py.
    Twin: naive/sparse.py.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        query_rank: int,
        head_dim: int,
        rotated_dim: int,
        top_k: int,
        rope: Callable[..., mx.array],
    ):
        super().__init__()
        self.heads, self.rotated_dim, self.top_k, self.rope = heads, rotated_dim, top_k, rope
        self.scale = (heads * head_dim) ** -0.5
        self.wq_b = nn.Linear(query_rank, heads * head_dim, bias=False)
        self.wk = nn.Linear(dim, head_dim, bias=False)
        self.k_norm = nn.LayerNorm(head_dim, eps=1e-6)
        self.weights_proj = nn.Linear(dim, heads, bias=False)

    def __call__(self, x: mx.array, compressed: mx.array, start, cache=None) -> mx.array | None:
        """x (B, L, D), compressed queries (B, L, query rank) -> the chosen (B, L, T), or None.

        None means all: fewer than T are there. What is not yet to be seen may be among the chosen.
        """
        L = x.shape[1]
        *keys, q, weights = self._projected(x, compressed, start)
        if cache is not None:
            keys = cache.update_and_fetch(*keys)
        seen = keys[0].shape[2]
        if seen <= self.top_k:
            return None
        chosen: list[mx.array] = []
        for part in _slices(L, _QUERIES):
            near = max(seen - L + part.stop, self.top_k)  # what comes after, none of these sees
            parts = mx.depends(q[:, part], chosen[-1:]), weights[:, part]
            scores = self._scores(*parts, [k[:, 0, :near] for k in keys])
            if L > 1:
                positions = mx.arange(seen - L + part.start, seen - L + part.stop)[:, None]
                scores = mx.where(mx.arange(near) <= positions, scores, mx.inf)
            best = mx.argpartition(scores, kth=self.top_k - 1, axis=-1)
            chosen.append(best[..., : self.top_k])
        return mx.concatenate(chosen, axis=1)

    @replayed
    def _projected(self, x: mx.array, compressed: mx.array, start) -> tuple[mx.array, ...]:
        """Keys in two parts (B, 1, L, ...), queries (B, L, I, E) and weights (B, L, 1, I)."""
        B, L, _ = x.shape
        k = self.rope(self.k_norm(self.wk(x))[:, None], offset=start)
        q = self.rope(self.wq_b(compressed).reshape(B, L, self.heads, -1).swapaxes(1, 2), start)
        # Negated: the least are the best, and of equals the earliest.
        weights = self.weights_proj(x.astype(mx.float32))[:, :, None] * -self.scale
        q = q.swapaxes(1, 2).astype(mx.float32)
        return *mx.split(k, [self.rotated_dim], axis=-1), q, weights

    def _scores(self, q, weights, keys) -> mx.array:
        """q (B, l, I, E), weights (B, l, 1, I), keys in two parts (B, s, ...) -> (B, l, s)."""
        B, length = q.shape[:2]
        q = mx.split(q.flatten(1, 2), [self.rotated_dim], axis=-1)  # (B, l * I, ...)
        scores: list[mx.array] = []
        for tile in _slices(keys[0].shape[1], max(1, _BUDGET // (B * length * self.heads))):
            rotated, rest = (k[:, tile].astype(mx.float32).swapaxes(-1, -2) for k in keys)
            found = mx.addmm(mx.depends(q[0], scores[-1:]) @ rotated, q[1], rest)
            found = mx.maximum(found, 0).reshape(B, length, self.heads, -1)
            scores.append((weights @ found)[:, :, 0])
        return mx.concatenate(scores, axis=-1)


class Selection:
    """What the last layer with an indexer chose, for those after it that share its choice.

    It lives for one pass through the model: the decoder hands it to all layers of a kind in the
    place of a mask.
    """

    def __init__(self, mask: mx.array | str | None):
        self.mask = mask
        self.chosen: mx.array | None = None


class SparseLatentAttention(LatentAttention):
    """Latent attention to the tokens its indexer chooses.

    Args:
        indexer: Chooses; None takes the choice of the layer before.

    Source: DeepSeek-V3.2, section 2.1; transformers modeling_glm_moe_dsa.py.
    Twin: naive/sparse.py.
    """

    def __init__(self, dim: int, heads: int, *, indexer: Indexer | None, **sizes):
        super().__init__(dim, heads, **sizes)
        self.indexer = indexer

    def __call__(self, x: mx.array, mask: Any = None, cache=None) -> mx.array:
        """x (B, L, D) -> (B, L, D)."""
        latents, keys = (None, None) if cache is None else cache
        start = 0 if latents is None else latents.offset
        compressed, q, rotated_q, latent, rotated = self._projected(x, start)
        if latents is not None:
            latent, rotated = latents.update_and_fetch(latent, rotated)
        if self.indexer is not None:
            mask.chosen = self.indexer(x, compressed, start, keys)
        if mask.chosen is None:
            return self._out(self._attend(q, rotated_q, latent, rotated))
        return self._out(self._gathered(q, rotated_q, latent, rotated, mask.chosen))

    def _gathered(self, q, rotated_q, latent, rotated, chosen) -> mx.array:
        """Attends to each query's own tokens, in the latent's space: (B, H, L, F)."""
        B, _, L, _ = q.shape
        seen = latent.shape[2]
        q, rotated_q = self.embed_q(q).swapaxes(1, 2), rotated_q.swapaxes(1, 2)  # (B, L, H, R or P)
        out: list[mx.array] = []
        for part in _slices(L, max(1, _BUDGET // (B * chosen.shape[-1] * q.shape[-1]))):
            which = mx.depends(chosen[:, part], out[-1:])  # (B, l, T)
            v, near = _rows(latent, which), _rows(rotated, which)  # (B, l, T, R or P)
            near = rotated_q[:, part] @ near.swapaxes(-1, -2)
            scores = mx.addmm(near, q[:, part], v.swapaxes(-1, -2)).astype(mx.float32) * self.scale
            if L > 1:
                positions = mx.arange(seen - L + part.start, seen - L + part.stop)[:, None]
                scores = mx.where((which <= positions)[:, :, None], scores, -mx.inf)  # (B, l, H, T)
            out.append(mx.softmax(scores, axis=-1).astype(v.dtype) @ v)
        return self.unembed_out(mx.concatenate(out, axis=1).swapaxes(1, 2))

    def make_cache(self, bits: int | None = None) -> CacheList:
        """Empty caches: latents, and the indexer's keys, rotated features apart from the rest.

        The latter stay as they are: in 4 bits they would choose one token in eleven otherwise.
        """
        return CacheList(super().make_cache(bits), KVCache())

    def make_mask(self, x: mx.array, cache=None) -> Selection:
        """A place for the choice, and the mask for as long as there is nothing to choose from."""
        return Selection(super().make_mask(x, None if cache is None else cache[0]))


def _rows(x: kv.Rows, which: mx.array) -> mx.array:
    """x (B, 1, S, E), which (B, l, T) -> the tokens' own (B, l, T, E)."""
    if which.shape[1] == 1:
        return kv.taken(x, lambda rows: mx.take_along_axis(rows, which[..., None], axis=2))
    batch = mx.arange(which.shape[0])[:, None, None]
    return kv.taken(x, lambda rows: rows[batch, 0, which])


def _slices(length: int, each: int) -> list[slice]:
    """Runs of at most so many."""
    return [slice(i, min(i + each, length)) for i in range(0, length, each)]
