"""Gated DeltaNet: a recurrent layer whose state is corrected towards each new value.

Shapes, besides attention.py's: H value heads   K key heads   E key size   F value size
    C tokens of a chunk   T taps of the convolution
"""

import mlx.core as mx
import mlx.nn as nn

from mlxarch import backend
from mlxarch.rollback import State

from .replay import replayed

# Tokens of a chunk. Longer ones are more work, in fewer and larger steps: a GPU counts the steps.
CHUNK = {"CPU": 16, "CUDA": 64, "Metal": 64}


class GatedDeltaNet(nn.Module):
    """Projections, a short convolution, the gated delta rule, and a norm gated by SiLU.

    The cache is two arrays whatever the length: the last T - 1 inputs of the convolution, and the
    state. Each key head serves H // K value heads.

    Source: arXiv:2412.06464; transformers, models/qwen3_next/modeling_qwen3_next.py.
    Twin: naive/delta.py.
    """

    window = None

    def __init__(
        self,
        dim: int,
        heads: int,
        key_heads: int,
        key_dim: int,
        value_dim: int,
        taps: int,
        *,
        norm_eps: float,
    ):
        super().__init__()
        self.heads, self.key_heads = heads, key_heads
        self.key_dim, self.value_dim = key_dim, value_dim
        keys, values = key_heads * key_dim, heads * value_dim
        mixed = 2 * keys + values
        self.in_proj_qkv = nn.Linear(dim, mixed, bias=False)
        self.in_proj_z = nn.Linear(dim, values, bias=False)
        self.in_proj_b = nn.Linear(dim, heads, bias=False)
        self.in_proj_a = nn.Linear(dim, heads, bias=False)
        self.conv1d = nn.Conv1d(mixed, mixed, taps, groups=mixed, bias=False)
        self.A_log = mx.zeros((heads,))
        self.dt_bias = mx.zeros((heads,))
        self.norm = nn.RMSNorm(value_dim, eps=norm_eps)
        self.out_proj = nn.Linear(values, dim, bias=False)

    def __call__(self, x: mx.array, mask=None, cache=None) -> mx.array:
        """x (B, L, D) -> (B, L, D)."""
        if cache is None or cache[0] is None:
            past = self.conv1d.weight.shape[1] - 1
            mixed = self.conv1d.weight.shape[0]
            tail, state = mx.zeros((x.shape[0], past, mixed), dtype=x.dtype), None
        else:
            tail, state = cache[0], cache[1]
        out, after = self._through(x, tail, state, cache is not None and cache.drafting)
        if cache is not None:
            cache.take(after)
        return out

    @replayed
    def _through(
        self, x: mx.array, tail: mx.array, state: mx.array | None, each: bool
    ) -> tuple[mx.array, list[list[mx.array]]]:
        """x (B, L, D), what a cache holds -> (B, L, D), what it holds after each or all tokens."""
        B, L, _ = x.shape
        seen = mx.concatenate([tail, self.in_proj_qkv(x)], axis=1)  # (B, T - 1 + L, M)
        mixed = nn.silu(self.conv1d(seen)).astype(mx.float32)
        keys = self.key_heads * self.key_dim
        q, k, v = mx.split(mixed, [keys, 2 * keys], axis=-1)
        q = _unit(q.reshape(B, L, self.key_heads, -1)) * self.key_dim**-0.5
        k = _unit(k.reshape(B, L, self.key_heads, -1))
        v = v.reshape(B, L, self.heads, -1)
        beta = mx.sigmoid(self.in_proj_b(x).astype(mx.float32))  # (B, L, H)
        step = nn.softplus(self.in_proj_a(x).astype(mx.float32) + self.dt_bias.astype(mx.float32))
        g = -mx.exp(self.A_log.astype(mx.float32)) * step
        out, states = gated_delta(q, k, v, g, beta, state, each=each)
        past = tail.shape[1]
        ends = range(L - len(states), L)
        tails = [mx.contiguous(seen[:, end + 1 : end + 1 + past]) for end in ends]
        z = self.in_proj_z(x).reshape(B, L, self.heads, -1).astype(mx.float32)
        out = self.norm(out) * nn.silu(z)
        out = self.out_proj(out.reshape(B, L, -1).astype(x.dtype))
        return out, list(map(list, zip(tails, states, strict=True)))

    def make_cache(self, bits: int | None = None) -> State:
        """An empty cache: the convolution's tail and the state."""
        return State(size=2)

    def make_mask(self, x: mx.array, cache=None) -> None:
        """A recurrent layer sees the past only."""
        return


def gated_delta(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    g: mx.array,
    beta: mx.array,
    state: mx.array | None = None,
    *,
    each: bool = False,
) -> tuple[mx.array, list[mx.array]]:
    """Gated delta rule: a state for each head, decayed by g, corrected towards v by beta.

    Shapes: q, k (B, L, K, E)   v (B, L, H, F)   g, beta (B, L, H)
        -> (B, L, H, F), the last state (B, H, E, F), or those after each token if `each`
    Units: g is a log decay, <= 0.   Precision: float32 throughout.

    Source: arXiv:2412.06464, sections 3.1 and 3.3.   Twin: naive/delta.py.
    """
    B, L, H, F = v.shape
    K, E = q.shape[2:]
    if state is None:
        state = mx.zeros((B, H, E, F), dtype=mx.float32)
    # The value heads that a key head serves lie side by side: (B, K, 1 or H // K, L, ...).
    q, k = (t.swapaxes(1, 2)[:, :, None] for t in (q, k))
    v, g, beta, state = (
        mx.unflatten(t, 1, (K, -1)) for t in (*(t.swapaxes(1, 2) for t in (v, g, beta)), state)
    )
    if L > 1:
        out, states = _chunks(q, k, v, g, beta, state, each)
    else:
        out, states = _step(q, k, v, g, beta, state)
    return out.flatten(1, 2).swapaxes(1, 2), [state.flatten(1, 2) for state in states]


def _step(q, k, v, g, beta, state):
    """One token."""
    state = state * mx.exp(g)[..., None]
    correction = beta[..., None] * (v - k @ state)  # (B, K, H // K, 1, F)
    state = state + k.swapaxes(-1, -2) @ correction
    return q @ state, [state]


def _chunks(q, k, v, g, beta, state, each):
    """Many tokens: matrix products within chunks of C, a loop from chunk to chunk.

    Within a chunk the corrections u solve (1 + A) u = beta (v - exp(G) k S), where S is the state
    the chunk begins with, G sums its log decays, and A holds what each token's key finds of the
    ones before it. So u = X beta v - (X beta exp(G) k) S with X the inverse of 1 + A, and only the
    product with S waits for the chunk before.

    The state after a token is S, decayed, and what the tokens up to it add: those that follow have
    no part in it, to the bit. MLX computes it only if somebody goes back to it.
    """
    L = q.shape[3]
    C = min(CHUNK[backend.device()], 1 << (L - 1).bit_length())
    pad = -L % C

    def chunked(t):
        t = mx.pad(t, [(0, 0)] * 3 + [(0, pad)] + [(0, 0)] * (t.ndim - 4))
        return mx.unflatten(t, 3, (-1, C))

    q, k, v, g, beta = (chunked(t) for t in (q, k, v, g, beta))  # (B, K, 1 or H // K, n, C, ...)
    total = mx.cumsum(g, axis=-1)  # G
    # From j to i, summed for each j by itself: differences of G lose what a strong decay before
    # them leaves of weak ones.
    between = mx.cumsum(mx.where(mx.tri(C, k=-1, dtype=mx.bool_), g[..., None], 0), axis=-2)
    decay = mx.tril(mx.exp(between))  # (B, K, H // K, n, C, C)
    faded = mx.exp(total)[..., None]
    keys = k.swapaxes(-1, -2)
    X = _inverse_of_one_plus(mx.tril(k @ keys * decay * beta[..., None], k=-1))
    values = X @ (v * beta[..., None])  # (B, K, H // K, n, C, F)
    # What is looked up in S: for the corrections, and for the outputs.
    asked = mx.concatenate([X @ (k * beta[..., None] * faded), q * faded], axis=-2)
    found, corrections, states = [], [], []
    for n in range(q.shape[3]):
        before = state
        found.append(asked[..., n, :, :] @ before)
        corrections.append(values[..., n, :, :] - found[-1][..., :C, :])
        after = [
            mx.addmm(
                before * faded[..., n, t, None, :],
                keys[..., n, :, : t + 1] * decay[..., n, t, None, : t + 1],
                corrections[-1][..., : t + 1, :],
            )
            for t in (range(min(C, L - n * C)) if each else [C - 1])
        ]
        state, states = after[-1], [*states, *after] if each else after[-1:]
    out = mx.stack(found, axis=3)[..., C:, :]
    out = out + (q @ keys * decay) @ mx.stack(corrections, axis=3)
    return out.flatten(3, 4)[..., :L, :], states


def _inverse_of_one_plus(A: mx.array) -> mx.array:
    """(1 + A)^-1 of strictly lower triangular A (..., C, C), C a power of two.

    From inverses of blocks on the diagonal to those twice as large, by two products a time. As
    exact as substitution; a series in powers of A would cancel where keys repeat.
    """
    C = A.shape[-1]
    X = mx.ones((*A.shape[:-2], C, 1, 1), dtype=A.dtype)  # C inverses of 1 x 1 blocks
    size = 1
    while size < C:
        blocks = A.reshape(*A.shape[:-2], C // (2 * size), 2 * size, C // (2 * size), 2 * size)
        blocks = mx.moveaxis(mx.diagonal(blocks, axis1=-4, axis2=-2), -1, -3)
        below = blocks[..., size:, :size]
        first, second = X[..., 0::2, :, :], X[..., 1::2, :, :]
        corner = -(second @ below @ first)
        top = mx.concatenate([first, mx.zeros_like(first)], axis=-1)
        X = mx.concatenate([top, mx.concatenate([corner, second], axis=-1)], axis=-2)
        size *= 2
    return X[..., 0, :, :]


def _unit(x: mx.array) -> mx.array:
    """Vectors of length one, nearly: as the reference does it."""
    size = x.shape[-1]
    return mx.fast.rms_norm(x, None, 1e-6 / size) * size**-0.5
