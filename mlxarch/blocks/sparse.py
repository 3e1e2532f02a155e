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

# Numbers that may be gathered or scored at once, so that memory does not grow with the prompt.
_BUDGET = 1 << 25


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
        B, L, _ = x.shape
        k = self.rope(self.k_norm(self.wk(x))[:, None], offset=start)
        k = mx.split(k, [self.rotated_dim], axis=-1)
        if cache is not None:
            k = cache.update_and_fetch(*k)
        seen = k[0].shape[2]
        if seen <= self.top_k:
            return None
        q = self.wq_b(compressed).reshape(B, L, self.heads, -1).swapaxes(1, 2)
        q = self.rope(q, offset=start).astype(mx.float32)
        keys = mx.concatenate(list(k), axis=-1).astype(mx.float32).swapaxes(-1, -2)
        weights = self.weights_proj(x.astype(mx.float32)).swapaxes(1, 2)[..., None] * self.scale
        positions = mx.arange(seen - L, seen)[:, None]
        chosen = []
        for part in _slices(L, B * self.heads * seen):
            scores = (mx.maximum(q[:, :, part] @ keys, 0) * weights[:, :, part]).sum(axis=1)
            scores = mx.where(mx.arange(seen) <= positions[part], scores, -mx.inf)
            order = mx.argpartition(-scores, kth=self.top_k - 1, axis=-1)
            chosen.append(order[..., : self.top_k])
        return mx.concatenate(chosen, axis=1)


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
        compressed = self.q_a_norm(self.q_a_proj(x))
        q, rotated_q = self._queries(compressed, start)
        latent, rotated = self._latents(x, start)
        if latents is not None:
            latent, rotated = latents.update_and_fetch(latent, rotated)
        if self.indexer is not None:
            mask.chosen = self.indexer(x, compressed, start, keys)
        if mask.chosen is None:
            attend = self._expanded if x.shape[1] >= self.expands_from else self._absorbed
            return self._out(attend(q, rotated_q, latent, rotated, mask.mask))
        return self._out(self._gathered(q, rotated_q, latent, rotated, mask.chosen))

    def _gathered(self, q, rotated_q, latent, rotated, chosen) -> mx.array:
        """Attends to each query's own tokens, in the latent's space: (B, H, L, F)."""
        B, _, L, _ = q.shape
        seen = latent.shape[2]
        q = mx.concatenate([self.embed_q(q), rotated_q], axis=-1).swapaxes(1, 2)  # (B, L, H, R + P)
        positions = mx.arange(seen - L, seen)[:, None]
        out = []
        for part in _slices(L, B * chosen.shape[-1] * q.shape[-1]):
            which = chosen[:, part]  # (B, l, T)
            v = _rows(latent, which)  # (B, l, T, R)
            k = mx.concatenate([v, _rows(rotated, which)], axis=-1)  # (B, l, T, R + P)
            scores = q[:, part] @ k.swapaxes(-1, -2)  # (B, l, H, T)
            visible = (which <= positions[part])[:, :, None]
            scores = mx.where(visible, scores * self.scale, -mx.inf)
            out.append(mx.softmax(scores, axis=-1, precise=True) @ v)
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
    if isinstance(x, kv.Packed):
        return x.each(lambda part: _rows(part, which)).unpacked()
    flat = which.reshape(which.shape[0], -1, 1)
    return mx.take_along_axis(x[:, 0], flat, axis=1).reshape(*which.shape, -1)


def _slices(length: int, each: int) -> list[slice]:
    """The tokens in runs of which each costs no more than the budget."""
    run = max(1, _BUDGET // each)
    return [slice(i, i + run) for i in range(0, length, run)]
