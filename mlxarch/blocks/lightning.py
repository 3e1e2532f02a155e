"""Lightning attention: linear attention whose memory fades at a fixed pace, head by head.

Shapes as in attention.py, with all heads' keys and values their own.
"""

from collections.abc import Callable, Sequence

import mlx.core as mx
import mlx.nn as nn

from mlxarch import backend
from mlxarch.rollback import State

from .delta import CHUNK
from .replay import replayed


class LightningAttention(nn.Module):
    """Queries read a state to which each token adds key times value, and which decays.

    The cache is the state and how many tokens it has seen: two arrays whatever that number is.

    Args:
        decay: Each head's log decay a token, <= 0.
        groups: Groups of features that are normed apart on the way out.

    Source: arXiv:2405.17381; inclusionAI/Ling-V2.5, modeling_bailing_moe_v2_5.py.
    Twin: naive/lightning.py.
    """

    window = None

    def __init__(
        self,
        dim: int,
        heads: int,
        head_dim: int,
        *,
        decay: Sequence[float],
        groups: int,
        rope: Callable[..., mx.array],
        norm_eps: float,
    ):
        super().__init__()
        self.heads, self.scale, self.rope = heads, head_dim**-0.5, rope
        self._decay = tuple(decay)
        self.query_key_value = nn.Linear(dim, 3 * heads * head_dim, bias=False)
        self.q_norm = nn.RMSNorm(head_dim, eps=norm_eps)
        self.k_norm = nn.RMSNorm(head_dim, eps=norm_eps)
        self.gate_proj = nn.Linear(dim, heads * head_dim, bias=False)
        self.norm = GroupRMSNorm(heads * head_dim, groups, eps=norm_eps)
        self.o_proj = nn.Linear(heads * head_dim, dim, bias=False)

    def __call__(self, x: mx.array, mask=None, cache=None) -> mx.array:
        """x (B, L, D) -> (B, L, D)."""
        state, start = (None, None) if cache is None else (cache[0], cache[1])
        start = mx.zeros((x.shape[0],), dtype=mx.int32) if start is None else start
        out, after = self._through(x, state, start, cache is not None and cache.drafting)
        if cache is not None:
            cache.take(after)
        return out

    @replayed
    def _through(
        self, x: mx.array, state: mx.array | None, start: mx.array, each: bool
    ) -> tuple[mx.array, list[list[mx.array]]]:
        """x (B, L, D), what a cache holds -> (B, L, D), what it holds after each or all tokens."""
        B, L, _ = x.shape
        q, k, v = mx.split(self.query_key_value(x).reshape(B, L, 3 * self.heads, -1), 3, axis=2)
        q, k, v = self.q_norm(q).swapaxes(1, 2), self.k_norm(k).swapaxes(1, 2), v.swapaxes(1, 2)
        q, k = self.rope(q, offset=start), self.rope(k, offset=start)
        q, k, v = (t.astype(mx.float32) for t in (q, k, v))
        out, states = fading(q * self.scale, k, v, mx.array(self._decay), state, each=each)
        ends = range(L - len(states) + 1, L + 1)
        after = [[s, start + end] for s, end in zip(states, ends, strict=True)]
        gate = mx.sigmoid(self.gate_proj(x).astype(mx.float32))
        out = self.norm(out.swapaxes(1, 2).reshape(B, L, -1)) * gate
        return self.o_proj(out.astype(x.dtype)), after

    def make_cache(self, bits: int | None = None) -> State:
        """An empty cache: the state and how many tokens it has seen."""
        return State(size=2)

    def make_mask(self, x: mx.array, cache=None) -> None:
        """A recurrent layer sees the past only."""
        return


class GroupRMSNorm(nn.Module):
    """RMSNorm of each of `groups` equal runs of features by itself; every feature has a weight.

    Source: inclusionAI/Ling-V2.5, modeling_bailing_moe_v2_5.py.   Twin: naive/lightning.py.
    """

    def __init__(self, dim: int, groups: int, *, eps: float):
        super().__init__()
        self.groups, self.eps = groups, eps
        self.weight = mx.ones((dim,))

    def __call__(self, x: mx.array) -> mx.array:
        """x (..., D) -> the same shape."""
        runs = x.reshape(*x.shape[:-1], self.groups, -1)
        return mx.fast.rms_norm(runs, None, self.eps).reshape(x.shape) * self.weight


def fading(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    decay: mx.array,
    state: mx.array | None = None,
    *,
    each: bool = False,
) -> tuple[mx.array, list[mx.array]]:
    """A state for each head that decays by exp(decay) and gains k times v with each token.

    Within chunks of C tokens all are matrix products; the loop is from state to state.

    Shapes: q, k (B, H, L, E)   v (B, H, L, F)   decay (H,)
        -> (B, H, L, F), the last state (B, H, E, F), or those after each token if `each`
    Precision: float32 throughout.

    Source: arXiv:2405.17381, section 3.   Twin: naive/lightning.py.
    """
    B, H, L, E = q.shape
    if state is None:
        state = mx.zeros((B, H, E, v.shape[-1]), dtype=mx.float32)
    if L == 1:
        state = mx.addmm(state * mx.exp(decay)[:, None, None], k.swapaxes(-1, -2), v)
        return q @ state, [state]
    C = min(CHUNK[backend.device()], L)
    whole, rest = divmod(L - 1, C)  # chunks before the last one, tokens of that before the last
    padding = [(0, 0), (0, 0), (0, C - 1 - rest), (0, 0)]
    q, k, v = (mx.unflatten(mx.pad(t, padding), 2, (-1, C)) for t in (q, k, v))  # (B, H, n, C, E)
    keys = k.swapaxes(-1, -2)
    ages = mx.arange(C)[:, None]  # tokens since the chunk began
    decay = decay[:, None, None]  # (H, 1, 1)
    weights = mx.exp(mx.where(ages >= ages.T, (ages - ages.T) * decay, -mx.inf))  # (H, C, C)
    faded = mx.exp((ages + 1) * decay)  # (H, C, 1)
    begun = [state]  # what each chunk begins with

    def after(n: int, t: int) -> mx.array:
        """The state after token t of chunk n."""
        left = keys[:, :, n, :, : t + 1] * weights[:, t, None, : t + 1]
        return mx.addmm(begun[n] * faded[:, t, None], left, v[:, :, n, : t + 1])

    for n in range(whole):
        begun.append(after(n, C - 1))
    out = (q @ keys * weights[:, None]) @ v + (q * faded[:, None]) @ mx.stack(begun, axis=2)
    tokens = range(L) if each else [L - 1]
    return out.flatten(2, 3)[:, :, :L], [after(*divmod(t, C)) for t in tokens]
