"""Blocks that compute with the CPU's own kernels, as the layers of layers.py do.

A decoder all of whose blocks are made of such parts hands numpy's arrays from one to the next: what
a block does itself is no more than to add.

Shapes as in mlxarch/blocks/attention.py.
"""

from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlxarch import backend, compat, decoder, kv
from mlxarch.blocks import attention, mlp, moe, mtp, rope
from mlxarch.vision import transformer

from . import blas, cpu, crew, tiles
from .cache import KVCache, RotatingKVCache
from .layers import Chosen, Quick, apply, by_choice, floats, rows, together
from .matrices import Matrices
from .recurrent import sigmoid

# Queries up to which attention goes one by one.
_FEW = 8
_ALL = np.empty((0, 0), dtype=np.uint8)  # a mask that bars nothing


class Decoder(decoder.Decoder):
    """Leaves MLX's graph between its embedding and its last norm."""

    def through(self, x: mx.array, cache: Any = None, places: Any = None) -> mx.array:
        """x (B, L, D) -> (B, L, D), through all blocks."""
        parts = (part for block in self.layers for part in block.children().values())
        if not floats(self, x) or not all(isinstance(part, Quick) for part in parts):
            return super().through(x, cache, places)
        return mx.array(super().through(cast(Any, np.asarray(x)), cache, places))


class MTPHead(Quick, mtp.MTPHead):
    """Leaves MLX's graph between what it is given and its last norm."""

    @property
    def arrays(self) -> Any:
        """Numpy, unless the block or the numbers are not for the kernels."""
        return np if self.suits(self.norm.weight) else mx

    def numbers(self, hidden: np.ndarray, embedded: Any, cache: Any = None) -> np.ndarray:
        """hidden, embedded (B, L, D) -> (B, L, D)."""
        parts = (self.embed_norm, np.asarray(embedded)), (self.hidden_norm, hidden)
        joined = np.concatenate([apply(norm, x) for norm, x in parts], axis=-1)
        mask = self.block.mixer.make_mask(joined, cache)
        return apply(self.norm, self.block(apply(self.proj, joined), mask, cache))

    def suits(self, x: mx.array) -> bool:
        """Whether a call is for the kernels."""
        ours = all(isinstance(part, Quick) for part in self.block.children().values())
        return ours and super().suits(x)


class RMSNorm(Quick, nn.RMSNorm):
    """In one pass."""

    def numbers(self, x: np.ndarray) -> np.ndarray:
        """x (..., I) -> (..., I)."""
        values = rows(x)
        out = np.empty_like(values)
        cpu.rms_norm(values, np.asarray(self["weight"]), self.eps, out)
        return out.reshape(x.shape)


class Rope(Quick, rope.Rope):
    """Each angle's sine and cosine are found once for all heads."""

    def numbers(self, x: np.ndarray, offset: Any = 0) -> np.ndarray:
        """x (..., L, E), positions offset, offset + 1 ... -> the same shape."""
        if not isinstance(offset, int):
            return super().numbers(x, offset)
        values = np.ascontiguousarray(x).reshape(-1, *x.shape[-2:])
        out, periods = np.empty_like(values), np.asarray(self._periods)
        cpu.rotate(values, offset, periods, self.magnitude, self.interleaved, out)
        return out.reshape(x.shape)


class SwiGLU(Quick, mlp.SwiGLU):
    """Both products at once."""

    def numbers(self, x: np.ndarray) -> np.ndarray:
        """x (B, L, D) -> (B, L, D)."""
        joined = together(self, (self.gate_proj, self.up_proj), x)
        hidden = _gated(joined, self._activation)
        return apply(self.down_proj, hidden).reshape(x.shape)


class GatedExpert(SwiGLU, moe.GatedExpert):
    """With a gate of its own."""

    def numbers(self, x: np.ndarray) -> np.ndarray:
        """x (B, L, D) -> (B, L, D)."""
        return sigmoid(apply(self.gate, x)) * super().numbers(x)


class MoE(Quick, moe.MoE):
    """The chosen experts' products at once."""

    def numbers(self, x: np.ndarray) -> np.ndarray:
        """x (B, L, D) -> (B, L, D)."""
        experts = self.experts
        stacks = experts.gate_proj, experts.up_proj, experts.down_proj
        if not all(isinstance(stack, Chosen) for stack in stacks):
            return super().numbers(x)
        tokens = x.shape[0] * x.shape[1]
        joined = Matrices.known(experts, stacks[:2], tokens)
        last = Matrices.known(stacks[2], stacks[2:], tokens)
        if joined is None or last is None or any("bias" in stack for stack in stacks):
            return super().numbers(x)
        choice, weights = self.router(mx.array(x))
        mx.eval(choice, weights)
        shares = np.asarray(weights)[..., None]  # (B, L, k, 1)
        chosen, k = np.asarray(choice).ravel(), shares.shape[-2]
        hidden = _gated(by_choice(joined, np.repeat(rows(x), k, axis=0), chosen), self._activation)
        out = by_choice(last, hidden, chosen).reshape(*x.shape[:2], k, -1)
        out = (out * shares).sum(axis=-2, dtype=np.float32)
        return out if self.shared is None else out + apply(self.shared, x)


class Attention(Quick, attention.Attention):
    """All projections at once; few queries one by one, for many scores and values by BLAS."""

    def numbers(
        self, x: np.ndarray, mask: Any = None, cache: Any = None, places: Any = None
    ) -> np.ndarray:
        """x (B, L, D) -> (B, L, D)."""
        if places is None:
            places = 0 if cache is None else cache.offset
        layers = (self.q_proj, self.k_proj, self.v_proj)
        joined = together(self, layers, x).reshape(*x.shape[:2], -1)
        first = layers[0]["weight"].shape[0]
        last = first + layers[1]["weight"].shape[0]
        q, k, v = joined[..., :first], joined[..., first:last], joined[..., last:]
        q = self._placed(self.q_norm, _split(q, self.heads), places)
        k = self._placed(self.k_norm, _split(k, self.kv_heads), places)
        v = _by_head(_split(v, self.kv_heads))
        if hasattr(cache, "bits") or (isinstance(mask, mx.array) and not _plain(mask)):
            out = self._by_mlx(q, k, v, mask, cache)
        else:
            if isinstance(cache, KVCache):
                k, v = cache.put(k, v)  # (B, K, S, E)
            elif cache is not None:
                stored = cache.update_and_fetch(mx.array(k), mx.array(v))
                mx.eval(stored)
                k, v = map(np.asarray, stored)
            out = _attend(q, k, v, self.scale, mask)  # (B, L, H, E)
        if self.gate_proj is not None:
            out *= sigmoid(_split(apply(self.gate_proj, x), self.heads))
        return apply(self.o_proj, out.reshape(*x.shape[:2], -1))

    def make_cache(self, bits: int | None = None) -> kv.Cache | kv.QuantizedCache:
        """As ever, but that they copy less where all bits are kept."""
        cache = super().make_cache(bits)
        if type(cache) is compat.RotatingKVCache:
            return RotatingKVCache(cache.max_size)
        return KVCache() if type(cache) is compat.KVCache else cache

    def make_mask(self, x: Any, cache: Any = None) -> Any:
        """As ever, but numpy's arrays are told how many keys each sees where that is a window."""
        mask = super().make_mask(x, cache)
        # A batch's rows begin at places of their own, and keys of few bits are MLX's: both need it.
        masked = hasattr(cache, "left_padding") or hasattr(cache, "bits")
        told = isinstance(x, np.ndarray) and isinstance(mask, mx.array) and not masked
        return self.window if told else mask

    def _placed(self, norm: nn.Module, x: np.ndarray, places: Any) -> np.ndarray:
        """x (B, L, heads, E) -> (B, heads, L, E), normed and rotated."""
        x = _by_head(x if type(norm) is nn.Identity else apply(norm, x))
        return x if self.rope is attention.nope else apply(self.rope, x, places)

    def _by_mlx(
        self, q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: Any, cache: Any
    ) -> np.ndarray:
        ours, theirs = map(mx.array, (k, v)), (k, v)
        theirs = tuple(ours) if cache is None else cache.update_and_fetch(*ours)
        out = kv.attend(mx.array(q), *theirs, cache=cache, scale=self.scale, mask=mask)
        return np.array(out.swapaxes(1, 2))


class TowerAttention(transformer.Attention):
    """A tower's: scores and values by BLAS."""

    def attend(self, q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        """Some queries (1, H, L, E), all keys and values (1, H, n, E) -> (1, H, L, E)."""
        if not floats(self, q):
            return super().attend(q, k, v)
        mx.eval(q, k, v)
        arrays = [np.ascontiguousarray(np.asarray(each)) for each in (q, k, v)]
        out = _attend(*arrays, q.shape[-1] ** -0.5, None)
        return mx.array(out).swapaxes(1, 2)


def _foreign(base: type) -> type:
    """A block that computes by itself, among others that hand on numpy's arrays."""
    return type(base.__name__, (Quick, base), {"__module__": __name__, "__doc__": base.__doc__})


LayerNorm = _foreign(nn.LayerNorm)


def _gated(joined: np.ndarray, activation: Any) -> np.ndarray:
    """Gates beside features (T, 2 * hidden) -> (T, hidden)."""
    T, width = joined.shape
    if activation is not mlp.gated_by_silu:
        gate, up = map(mx.array, np.split(joined, 2, axis=1))
        return np.asarray(activation(gate, up))
    out = np.empty((T, width // 2), np.float32)
    cpu.gated_by_silu(joined, out)
    return out


def _split(x: np.ndarray, heads: int) -> np.ndarray:
    """x (B, L, heads * E) -> (B, L, heads, E)."""
    return x.reshape(*x.shape[:2], heads, -1)


def _by_head(x: np.ndarray) -> np.ndarray:
    """x (B, L, heads, E) -> (B, heads, L, E)."""
    return np.ascontiguousarray(x.swapaxes(1, 2))


def _plain(mask: mx.array) -> bool:
    return mask.ndim == 2 and mask.dtype == mx.bool_


def _attend(q: np.ndarray, k: np.ndarray, v: np.ndarray, scale: float, mask: Any) -> np.ndarray:
    """q (B, H, L, E), k and v (B, K, S, E or F) -> (B, L, H, F)."""
    B, H, L, _ = q.shape
    K, S, F = v.shape[1:]
    if L <= _FEW:
        seen = np.asarray(mask).view(np.uint8) if isinstance(mask, mx.array) else None
        if isinstance(mask, int):
            ages = np.arange(S - L, S)[:, None] - np.arange(S)
            seen = ((ages >= 0) & (ages < mask)).view(np.uint8)
        return crew.attend(q, k, v, scale, isinstance(mask, str), seen)
    if isinstance(mask, str | int):
        return _attend_causally(q, k, v, scale, mask if isinstance(mask, int) else tiles.NO_WINDOW)
    seen = _ALL if mask is None else np.asarray(mask).view(np.uint8)
    out = np.empty((B, L, H, F), dtype=np.float32)

    def head(i: int) -> None:
        b, h = divmod(i, H)
        at = b, h * K // H
        scores = (q[b, h] @ k[at].T)[None]  # (1, L, S)
        cpu.shares(scores, scale, False, seen)
        out[b, :, h] = scores[0] @ v[at]

    blas.each(head, B * H, B * H * L * S * 2 * F)
    return out


def _attend_causally(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, scale: float, window: int
) -> np.ndarray:
    """As `_attend`, in tiles."""
    B, H, L, E = q.shape
    K, S, F = v.shape[1:]
    # The heads that share keys go together, token by token.
    each, n = H // K, H // K * L
    q = np.ascontiguousarray(q.reshape(B * K, each, L, E).swapaxes(1, 2)).reshape(B * K, n, E)
    out = np.empty((B * K, n, F), dtype=np.float32)
    rows = min(tiles.ROWS, n, -(-B * K * n // backend.cores()))
    parts = -(-n // rows)

    def part(i: int) -> None:
        (b, h), first = divmod(i // parts, K), i % parts * rows
        some = slice(first, first + rows)
        near = lambda tile: (k[b, h, tile], v[b, h, tile])  # noqa: E731
        its = q[i // parts, some], first, S - L, each, S, scale, near, out[i // parts, some]
        tiles.attend(*its, window, S)

    blas.each(part, B * K * parts, B * H * L * min(S, window + L) * 2 * F)
    return out.reshape(B, K, L, each, F).swapaxes(1, 2).reshape(B, L, H, F)
