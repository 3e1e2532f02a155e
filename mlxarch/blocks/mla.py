"""Multi-head latent attention: keys and values of all heads come from one small latent a token.

Shapes, besides attention.py's: R size of the latent   P rotated features   E features that are
not rotated   F features of a value
"""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlxarch import kv
from mlxarch.compat import CacheList, KVCache, MultiLinear, causal_mask


class LatentAttention(nn.Module):
    """Attention whose cache holds the latent and one rotated key a token, for all heads.

    Few queries are brought into the latent's space and attend there (absorbed); for many it is
    cheaper to expand the latents to keys and values once. Both are the same sum.

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
        q, rotated_q = self._queries(self.q_a_norm(self.q_a_proj(x)), start)
        latent, rotated = self._latents(x, start)
        if cache is not None:
            latent, rotated = cache.update_and_fetch(latent, rotated)  # (B, 1, S, R), (B, 1, S, P)
        attend = self._expanded if x.shape[1] >= self.expands_from else self._absorbed
        return self._out(attend(q, rotated_q, latent, rotated, mask))

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

    def _absorbed(self, q, rotated_q, latent, rotated, mask) -> mx.array:
        """Attends in the latent's space: (B, H, L, F)."""
        scores = kv.times(self.embed_q(q), latent, transpose=True)
        scores = scores + rotated_q @ rotated.swapaxes(-1, -2)
        if mask is not None:
            scores = mx.where(kv.causal(q.shape[2], latent.shape[2]), scores, -mx.inf)
        shares = mx.softmax(scores * self.scale, axis=-1, precise=True)
        return self.unembed_out(kv.times(shares, latent))

    def _expanded(self, q, rotated_q, latent, rotated, mask) -> mx.array:
        """Attends head by head: (B, H, L, F)."""
        latent = kv.unpacked(latent)
        k, v = self.embed_q(latent, transpose=False), self.unembed_out(latent)  # (B, H, S, E or F)
        k = mx.concatenate([k, mx.broadcast_to(rotated, (*k.shape[:-1], rotated.shape[-1]))], -1)
        q = mx.concatenate([q, rotated_q], axis=-1)
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=self.scale, mask=mask)

    def _out(self, x: mx.array) -> mx.array:
        B, _, L, _ = x.shape
        return self.o_proj(x.swapaxes(1, 2).reshape(B, L, -1))

    def make_cache(self, bits: int | None = None) -> kv.Cache | CacheList:
        """An empty cache: R + P numbers a token.

        In few bits are the R alone, as in deepseek-ai/FlashMLA: the P are few, and touchier.
        """
        return kv.cache(KVCache, bits, self.rank, None)

    def make_mask(self, x: mx.array, cache=None) -> Any:
        """Causal, or nothing for one token."""
        return causal_mask(x, cache)
