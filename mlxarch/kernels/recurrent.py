"""Recurrent layers on numpy's arrays: products by BLAS, side by side for heads.

Shapes as in mlxarch/blocks/delta.py and lightning.py; G value heads that share a key head.
"""

from typing import Any

import mlx.core as mx
import numpy as np

from mlxarch.blocks import delta, lightning

from . import blas, chunks, cpu
from .layers import Quick, apply

# Tokens of a chunk: where BLAS is quicker than what grows with them is more work.
_CHUNK = 64
# Tokens that a thread convolves at once.
_RUN = 64


class GatedDeltaNet(Quick, delta.GatedDeltaNet):
    """All of it."""

    def numbers(self, x: np.ndarray, mask: Any = None, cache: Any = None) -> np.ndarray:
        """x (B, L, D) -> (B, L, D)."""
        B, L, _ = x.shape
        seen = self._seen_by(apply(self.in_proj_qkv, x), cache)
        mixed = _convolved(seen, np.asarray(self.conv1d.weight), L)
        keys = self.key_heads * self.key_dim
        q, k = (_unit(mixed[..., at : at + keys], self.key_dim) for at in (0, keys))
        q *= np.float32(self.key_dim**-0.5)
        v = mixed[..., 2 * keys :].reshape(B, L, self.heads, -1)
        beta = sigmoid(apply(self.in_proj_b, x))
        step = np.logaddexp(apply(self.in_proj_a, x) + np.asarray(self.dt_bias), np.float32(0))
        g = -np.exp(np.asarray(self.A_log)) * step
        if cache is None or cache[1] is None:
            state = np.zeros((B, self.heads, self.key_dim, self.value_dim), np.float32)
        else:
            state = np.asarray(cache[1])
        outs, after = [], []
        for run in _runs(L, cache):
            out, state = _delta(*(t[:, run] for t in (q, k, v, g, beta)), state)
            outs.append(out)
            after.append(
                [mx.array(seen[:, run.stop : seen.shape[1] - L + run.stop]), mx.array(state)]
            )
        if cache is not None:
            cache.take(after)
        out = np.concatenate(outs, axis=1)
        z = apply(self.in_proj_z, x).reshape(out.shape)
        out = apply(self.norm, out) * (z * sigmoid(z))
        return apply(self.out_proj, out.reshape(B, L, -1))

    def _seen_by(self, x: np.ndarray, cache: Any) -> np.ndarray:
        """As `_seen`."""
        past = self.conv1d.weight.shape[1] - 1
        if cache is None or cache[0] is None:
            tail = np.zeros((x.shape[0], past, x.shape[2]), np.float32)
        else:
            tail = np.asarray(cache[0])
        return np.concatenate([tail, x], axis=1)


class LightningAttention(Quick, lightning.LightningAttention):
    """All of it."""

    def numbers(self, x: np.ndarray, mask: Any = None, cache: Any = None) -> np.ndarray:
        """x (B, L, D) -> (B, L, D)."""
        B, L, _ = x.shape
        joined = apply(self.query_key_value, x).reshape(B, L, 3, self.heads, -1)
        q, k = apply(self.q_norm, joined[:, :, 0]), apply(self.k_norm, joined[:, :, 1])
        before = cache is not None and cache[0] is not None
        seen = np.asarray(cache[1]) if before else np.zeros(B, np.int32)
        # All rows of a batch have seen as many, unless somebody joined them.
        start = int(seen[0]) if (seen == seen[0]).all() else mx.array(seen)
        q, k = (apply(self.rope, t.swapaxes(1, 2), start) for t in (q, k))  # (B, H, L, E)
        shape = (B, self.heads, q.shape[-1], q.shape[-1])
        state = np.asarray(cache[0]) if before else np.zeros(shape, np.float32)
        q *= np.float32(self.scale)
        v, outs, after = joined[:, :, 2].swapaxes(1, 2), [], []
        for run in _runs(L, cache):
            out, state = _fading(*(t[:, :, run] for t in (q, k, v)), self._decay, state)
            outs.append(out)
            after.append([mx.array(state), mx.array(seen + np.int32(run.stop))])
        if cache is not None:
            cache.take(after)
        out = apply(self.norm, np.concatenate(outs, axis=1).reshape(B, L, -1)) * sigmoid(
            apply(self.gate_proj, x)
        )
        return apply(self.o_proj, out)


class GroupRMSNorm(Quick, lightning.GroupRMSNorm):
    """In one pass, but for the weights."""

    def numbers(self, x: np.ndarray) -> np.ndarray:
        """x (..., D) -> the same shape."""
        return _normed(x, x.shape[-1] // self.groups, self.eps) * np.asarray(self["weight"])


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Of each number."""
    return 0.5 * np.tanh(0.5 * x) + np.float32(0.5)


def _runs(length: int, cache: Any) -> list[slice]:
    """Tokens to take at once: each by itself while it drafts, for its state is wanted."""
    each = 1 if cache is not None and cache.drafting else length
    return [slice(i, i + each) for i in range(0, length, each)]


def _normed(x: np.ndarray, size: int, eps: float) -> np.ndarray:
    """x (..., D) with each run of so many features over the root of its mean square."""
    runs = np.ascontiguousarray(x).reshape(-1, size)
    out = np.empty_like(runs)
    cpu.rms_norm(runs, np.ones(size, np.float32), eps, out)
    return out.reshape(x.shape)


def _unit(x: np.ndarray, size: int) -> np.ndarray:
    """Vectors of x (B, L, K * E) of length one, nearly: (B, L, K, E)."""
    out = _normed(x, size, 1e-6 / size) * np.float32(size**-0.5)
    return out.reshape(*x.shape[:2], -1, size)


def _convolved(seen: np.ndarray, weight: np.ndarray, length: int) -> np.ndarray:
    """SiLU of the convolution of seen (B, T - 1 + L, M), weight (M, T, 1) -> (B, L, M)."""
    B, _, M = seen.shape
    taps = np.ascontiguousarray(weight[..., 0].T)
    out, parts = np.empty((B, length, M), np.float32), -(-length // _RUN)

    def part(i: int) -> None:
        b, at = divmod(i, parts)
        piece = out[b, at * _RUN : (at + 1) * _RUN]
        begin = at * _RUN
        chunks.convolve(seen[b, begin : begin + len(piece) + len(taps) - 1], taps, piece)

    blas.each(part, B * parts, 8 * out.size)
    return out


def _delta(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    g: np.ndarray,
    beta: np.ndarray,
    state: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """As `delta.gated_delta`, with the last state alone."""
    (B, L, H, F), (K, E) = v.shape, q.shape[2:]
    out, last = np.empty((B, L, H, F), np.float32), np.empty_like(state)

    def head(i: int) -> None:
        """One key head, and the value heads it serves."""
        b, j = divmod(i, K)
        its = slice(j * (H // K), (j + 1) * (H // K))
        parts = (t[b, :, its].swapaxes(0, 1) for t in (v, g, beta))
        found, last[b, its] = _delta_of(q[b, :, j], k[b, :, j], *parts, state[b, its])
        out[b, :, its] = found.swapaxes(0, 1)

    blas.each(head, B * K, 4 * L * B * H * E * F)
    return out, last


def _delta_of(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    g: np.ndarray,
    beta: np.ndarray,
    state: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """q, k (L, E), v (G, L, F), g, beta (G, L), state (G, E, F) -> (G, L, F), the last state."""
    if len(q) == 1:
        state = state * np.exp(g)[..., None]
        state += k.T * (beta[..., None] * (v - k @ state))
        return q @ state, state
    C = min(_CHUNK, 1 << (len(q) - 1).bit_length())
    q, k = _chunked(q, C), _chunked(k, C)  # (n, C, E)
    keys = k.swapaxes(1, 2)
    likeness, asked = k @ keys, q @ keys
    each = zip(v, g, beta, state, strict=True)
    pairs = [_delta_chunks(q, k, likeness, asked, *its, C) for its in each]
    outs, states = zip(*pairs, strict=True)
    return np.stack(outs), np.stack(states)


def _delta_chunks(q, k, likeness, asked, v, g, beta, state, C):
    """One value head, as `delta._chunks` explains it: (L, F), (E, F)."""
    L, n = len(v), len(q)
    v, g, beta = _chunked(v, C), _chunked(g, C), _chunked(beta, C)
    decay, inverse = np.empty((n, C, C), np.float32), np.empty((n, C, C), np.float32)
    chunks.correct(likeness, g, beta, decay, inverse)
    faded = np.exp(np.cumsum(g, axis=1))[..., None]
    values = inverse @ (v * beta[..., None])
    # What is looked up in the state: for the corrections, and for the outputs.
    wanted = np.concatenate([inverse @ (k * (beta[..., None] * faded)), q * faded], axis=1)
    left = (k * decay[:, -1, :, None]).swapaxes(1, 2)
    out = np.empty((n, C, v.shape[-1]), np.float32)
    for i in range(n):
        found = wanted[i] @ state
        values[i] -= found[:C]
        out[i] = found[C:]
        state = state * faded[i, -1] + left[i] @ values[i]
    out += (asked * decay) @ values
    return out.reshape(n * C, -1)[:L], state


def _fading(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, decay: tuple[float, ...], state: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """As `lightning.fading`, with the last state alone; but the output is (B, L, H, F)."""
    B, H, L, E = q.shape
    out, last = np.empty((B, L, H, v.shape[-1]), np.float32), np.empty_like(state)

    def head(i: int) -> None:
        b, h = divmod(i, H)
        now = state[b, h]
        # Whole chunks, then what is left.
        for some in slice(0, L - L % _CHUNK), slice(L - L % _CHUNK, L):
            if some.start < some.stop:
                parts = (t[b, h, some] for t in (q, k, v))
                out[b, some, h], now = _fading_chunks(*parts, decay[h], now)
        last[b, h] = now

    blas.each(head, B * H, 3 * B * H * L * E * v.shape[-1])
    return out, last


def _fading_chunks(q, k, v, decay, state):
    """One head's tokens, less than a chunk or whole ones: (L, F), (E, F)."""
    L = len(q)
    C = min(_CHUNK, L)
    q, k, v = (np.ascontiguousarray(t).reshape(L // C, C, -1) for t in (q, k, v))
    ages = np.arange(C, dtype=np.float32)[:, None]  # tokens since the chunk began
    weights = np.tril(np.exp(np.minimum((ages - ages.T) * np.float32(decay), 0)))
    faded = np.exp((ages + 1) * np.float32(decay))
    out = (q @ k.swapaxes(1, 2) * weights) @ v
    added = (k * weights[-1][:, None]).swapaxes(1, 2) @ v
    begun = np.empty_like(added)  # what each chunk begins with
    for i in range(len(q)):
        begun[i] = state
        state = state * faded[-1] + added[i]
    out += (q * faded) @ begun
    return out.reshape(L, -1), state


def _chunked(x: np.ndarray, size: int) -> np.ndarray:
    """x (L, ...) -> (n, C, ...), filled up with zeros."""
    n = -(-len(x) // size)
    out = np.zeros((n * size, *x.shape[1:]), np.float32)
    out[: len(x)] = x
    return out.reshape(n, size, *x.shape[1:])
