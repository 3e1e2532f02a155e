"""Softmax attention over grouped heads, with a sliding window or no position where asked.

Shapes, here and in every block:
    B batch   L new tokens   S tokens in view   D model width
    H query heads   K key/value heads   E head size
"""

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn

from mlxarch.compat import KVCache, RotatingKVCache, attend, causal_mask


def nope(x: mx.array, offset: int = 0) -> mx.array:
    """No position: what a layer without RoPE does to its queries and keys."""
    return x


class Attention(nn.Module):
    """Grouped-query attention: `H // K` query heads share one key/value head.

    Args:
        rope: Rotates queries and keys by position; `nope` leaves them as they are.
        window: How many tokens back a query sees, itself included; None sees all.

    Source: arXiv:2305.13245; windows, arXiv:2004.05150.   Twin: naive/attention.py.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        *,
        rope: Callable[..., mx.array] = nope,
        window: int | None = None,
    ):
        super().__init__()
        if heads % kv_heads:
            raise ValueError(f"{heads} query heads cannot share {kv_heads} key/value heads evenly.")
        self.heads, self.kv_heads, self.scale = heads, kv_heads, head_dim**-0.5
        self.rope, self.window = rope, window

        self.q_proj = nn.Linear(dim, heads * head_dim, bias=False)
        self.k_proj = nn.Linear(dim, kv_heads * head_dim, bias=False)
        self.v_proj = nn.Linear(dim, kv_heads * head_dim, bias=False)
        self.o_proj = nn.Linear(heads * head_dim, dim, bias=False)

    def __call__(self, x: mx.array, mask=None, cache=None) -> mx.array:
        """x (B, L, D) -> (B, L, D)."""
        q = _split(self.q_proj(x), self.heads)  # (B, H, L, E)
        k = _split(self.k_proj(x), self.kv_heads)  # (B, K, L, E)
        v = _split(self.v_proj(x), self.kv_heads)  # (B, K, L, E)
        start = 0 if cache is None else cache.offset  # position of x[:, 0]
        q, k = self.rope(q, offset=start), self.rope(k, offset=start)
        if cache is not None:
            k, v = cache.update_and_fetch(k, v)  # (B, K, S, E)
        out = attend(q, k, v, cache=cache, scale=self.scale, mask=mask)  # (B, H, L, E)
        return self.o_proj(_join(out))

    def make_cache(self) -> KVCache | RotatingKVCache:
        """An empty cache that holds what this layer may look back on, and no more."""
        return RotatingKVCache(max_size=self.window) if self.window else KVCache()

    def make_mask(self, x: mx.array, cache=None) -> mx.array | str | None:
        """Which keys the queries of x (B, L, D) may see, in the form `attend` takes."""
        return causal_mask(x, cache, window_size=self.window)


def _split(x: mx.array, heads: int) -> mx.array:
    """(B, L, heads * E) -> (B, heads, L, E)."""
    B, L, _ = x.shape
    return x.reshape(B, L, heads, -1).transpose(0, 2, 1, 3)


def _join(x: mx.array) -> mx.array:
    """(B, H, L, E) -> (B, L, H * E)."""
    B, _, L, _ = x.shape
    return x.transpose(0, 2, 1, 3).reshape(B, L, -1)
