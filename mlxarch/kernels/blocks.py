"""Blocks that compute with the CPU's own kernels, as the layers of layers.py do.

Shapes as in mlxarch/blocks/attention.py.
"""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlxarch.blocks import attention, mlp, rope

from . import blas, cpu
from .layers import floats, given, rows

_ALL = np.empty((0, 0), dtype=np.uint8)  # a mask that bars nothing


class RMSNorm(nn.RMSNorm):
    """In one pass."""

    def __call__(self, x: mx.array) -> mx.array:
        """x (..., I) -> (..., I)."""
        if not floats(self, x):
            return super().__call__(x)
        values = rows(x)
        out = np.empty_like(values)
        cpu.rms_norm(values, np.asarray(self["weight"]), self.eps, out)
        return given(out, x)


class Rope(rope.Rope):
    """Each angle's sine and cosine are found once for all heads."""

    def __call__(self, x: mx.array, offset: int | mx.array = 0) -> mx.array:
        """x (..., L, E), positions offset, offset + 1 ... -> the same shape."""
        if not floats(self, x) or not isinstance(offset, int):
            return super().__call__(x, offset)
        values = np.ascontiguousarray(x).reshape(-1, *x.shape[-2:])
        out, periods = np.empty_like(values), np.asarray(self._periods)
        cpu.rotate(values, offset, periods, self.magnitude, self.interleaved, out)
        return mx.array(out.reshape(x.shape))


class SwiGLU(mlp.SwiGLU):
    """Gates by a SiLU in one pass."""

    def __call__(self, x: mx.array) -> mx.array:
        """x (B, L, D) -> (B, L, D)."""
        if not floats(self, x) or self._activation is not mlp.gated_by_silu:
            return super().__call__(x)
        gate, up = rows(self.gate_proj(x)), rows(self.up_proj(x))
        cpu.gated_by_silu(gate, up, up)
        return self.down_proj(given(up, x))


class Attention(attention.Attention):
    """Scores and values by BLAS, with softmax in place between them."""

    def __call__(self, x: mx.array, mask=None, cache=None) -> mx.array:
        """x (B, L, D) -> (B, L, D)."""
        dense = isinstance(mask, mx.array) and (mask.ndim != 2 or mask.dtype != mx.bool_)
        if not floats(self, x) or dense or hasattr(cache, "bits"):
            return super().__call__(x, mask, cache)
        start = 0 if cache is None else cache.offset
        q = self.rope(_by_head(self.q_norm(_split(self.q_proj(x), self.heads))), offset=start)
        k = self.rope(_by_head(self.k_norm(_split(self.k_proj(x), self.kv_heads))), offset=start)
        v = _by_head(_split(self.v_proj(x), self.kv_heads))
        if cache is not None:
            k, v = cache.update_and_fetch(k, v)  # (B, K, S, E)
            mx.eval(k, v)
        out = _attend(*map(np.asarray, (q, k, v)), self.scale, mask)  # (B, L, H, E)
        if self.gate_proj is not None:
            out *= _split(mx.sigmoid(self.gate_proj(x)), self.heads)
        return self.o_proj(mx.array(out.reshape(*x.shape[:2], -1)))


def _split(x: mx.array, heads: int) -> mx.array:
    """x (B, L, heads * E) -> (B, L, heads, E), evaluated."""
    return mx.array(np.asarray(x).reshape(*x.shape[:2], heads, -1))


def _by_head(x: mx.array) -> mx.array:
    """x (B, L, heads, E) -> (B, heads, L, E), evaluated."""
    return mx.array(np.asarray(x).swapaxes(1, 2))


def _attend(q: np.ndarray, k: np.ndarray, v: np.ndarray, scale: float, mask: Any) -> np.ndarray:
    """q (B, H, L, E), k and v (B, K, S, E or F) -> (B, L, H, F)."""
    B, H, L, _ = q.shape
    K, S, F = v.shape[1:]
    causal = isinstance(mask, str)
    seen = np.asarray(mask).view(np.uint8) if isinstance(mask, mx.array) else _ALL
    q = q.reshape(B, K, H // K * L, -1)
    out = np.empty((B, L, K, H // K, F), dtype=np.float32)

    def head(i: int) -> None:
        at = divmod(i, K)
        scores = q[at] @ k[at].T  # (H / K * L, S)
        cpu.shares(scores.reshape(-1, L, S), scale, causal, seen)
        values = (scores @ v[at]).reshape(-1, L, F)
        out[at[0], :, at[1]] = values.swapaxes(0, 1)

    blas.each(head, B * K, B * H * L * S * 2 * F)
    return out.reshape(B, L, H, F)
