"""Softmax attention over grouped heads, with a sliding window or no position where asked.

Shapes, here and in every block:
    B batch   L new tokens   S tokens in view   D model width
    H query heads   K key/value heads   E head size
"""

from collections.abc import Callable
from functools import partial

import mlx.core as mx
import mlx.nn as nn

from mlxarch import kv
from mlxarch.compat import KVCache, RotatingKVCache, causal_mask

from .replay import replayed


def nope(x: mx.array, offset: int = 0) -> mx.array:
    """No position: what a layer without RoPE does to its queries and keys."""
    return x


def no_norm(heads: int, head_dim: int) -> nn.Module:
    """Queries and keys as they are projected."""
    return nn.Identity()


class Attention(nn.Module):
    """Grouped-query attention: `H // K` query heads share one key/value head.

    Args:
        rope: Rotates queries and keys by position; `nope` leaves them as they are.
        window: How many tokens back a query sees, itself included; None sees all.
        qk_norm: Builds the norm of queries or keys (B, L, heads, E) from heads and E.
        gates: Sigmoids of the layer's input that scale a head's output: E, one a feature; 1, the
            same for all; 0, none.

    Source: arXiv:2305.13245; windows, arXiv:2004.05150; gates, arXiv:2505.06708.
    Twin: naive/attention.py.
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
        qk_norm: Callable[[int, int], nn.Module] = no_norm,
        gates: int = 0,
    ):
        super().__init__()
        if heads % kv_heads:
            raise ValueError(f"{heads} query heads cannot share {kv_heads} key/value heads evenly.")
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, head_dim
        self.scale = head_dim**-0.5
        self.rope, self.window = rope, window

        self.q_proj = nn.Linear(dim, heads * head_dim, bias=False)
        self.k_proj = nn.Linear(dim, kv_heads * head_dim, bias=False)
        self.v_proj = nn.Linear(dim, kv_heads * head_dim, bias=False)
        self.o_proj = nn.Linear(heads * head_dim, dim, bias=False)
        self.q_norm, self.k_norm = qk_norm(heads, head_dim), qk_norm(kv_heads, head_dim)
        self.gate_proj = nn.Linear(dim, heads * gates, bias=False) if gates else None

    def __call__(self, x: mx.array, mask=None, cache=None, places=None) -> mx.array:
        """x (B, L, D) -> (B, L, D).

        Args:
            places: The position of x[:, 0], or each token's, as `rope` takes them; None: how many
                tokens the cache holds.
        """
        if places is None:
            places = 0 if cache is None else cache.offset
        q, k, v = self._projected(x, places)
        if cache is not None:
            k, v = cache.update_and_fetch(k, v)  # (B, K, S, E)
        return self._gated(x, kv.attend(q, k, v, cache=cache, scale=self.scale, mask=mask))

    @replayed
    def _projected(self, x: mx.array, start) -> tuple[mx.array, mx.array, mx.array]:
        """(B, L, D) -> q (B, H, L, E), k and v (B, K, L, E)."""
        B, L, _ = x.shape
        q = self.q_norm(self.q_proj(x).reshape(B, L, self.heads, -1)).swapaxes(1, 2)
        k = self.k_norm(self.k_proj(x).reshape(B, L, self.kv_heads, -1)).swapaxes(1, 2)
        v = self.v_proj(x).reshape(B, L, self.kv_heads, -1).swapaxes(1, 2)
        return self.rope(q, offset=start), self.rope(k, offset=start), v

    @replayed
    def _gated(self, x: mx.array, out: mx.array) -> mx.array:
        """The layer's input (B, L, D), what heads found (B, H, L, E) -> (B, L, D)."""
        B, L, _ = x.shape
        out = out.swapaxes(1, 2)
        if self.gate_proj is not None:
            out = out * mx.sigmoid(self.gate_proj(x)).reshape(B, L, self.heads, -1)
        return self.o_proj(out.reshape(B, L, -1))

    def make_cache(self, bits: int | None = None) -> kv.Cache | kv.QuantizedCache:
        """An empty cache that holds what this layer may look back on, and no more."""
        kind = partial(RotatingKVCache, self.window) if self.window else KVCache
        return kv.cache(kind, bits, self.head_dim, self.head_dim)

    def make_mask(self, x: mx.array, cache=None) -> mx.array | str | None:
        """Which keys the queries of x (B, L, D) may see, in the form `attend` takes."""
        return causal_mask(x, cache, window_size=self.window)
