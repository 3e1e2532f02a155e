"""Mixture of experts: a router chooses a few of many feed-forward networks for each token.

Shapes, besides attention.py's: N experts   k chosen ones.
"""

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn

from mlxarch.compat import SwitchGLU

from .mlp import SwiGLU, gated_by_silu
from .replay import replayed


class SigmoidRouter(nn.Module):
    """Scores each expert on its own; a learned bias steers the choice, never the weight.

    With `groups`, experts are chosen from the `group_top_k` groups whose two best add up highest.
    Scores are in float32 whatever x is.

    Source: arXiv:2412.19437, section 2.1.2; transformers modeling_deepseek_v3.py, which bars the
    other groups with minus infinity.   Twin: naive/moe.py.
    """

    def __init__(
        self,
        dim: int,
        experts: int,
        top_k: int,
        *,
        scale: float = 1.0,
        groups: int = 1,
        group_top_k: int = 1,
        normalize: bool = True,
    ):
        super().__init__()
        self.top_k, self.scale, self.normalize = top_k, scale, normalize
        self.groups, self.group_top_k = groups, group_top_k
        self.gate = nn.Linear(dim, experts, bias=False)
        self.bias = mx.zeros((experts,))

    def __call__(self, x: mx.array) -> tuple[mx.array, mx.array]:
        """x (B, L, D) -> expert indices (B, L, k), their weights (B, L, k) float32."""
        scores = mx.sigmoid(self.gate(x.astype(mx.float32)))  # (B, L, N)
        ranked = scores + self.bias.astype(mx.float32)
        if self.groups > 1:
            ranked = self._within_groups(ranked)
        chosen = mx.argpartition(-ranked, kth=self.top_k - 1, axis=-1)[..., : self.top_k]
        weights = mx.take_along_axis(scores, chosen, axis=-1)
        if self.normalize:
            weights = weights / (weights.sum(axis=-1, keepdims=True) + 1e-20)
        return chosen, weights * self.scale

    def _within_groups(self, ranked: mx.array) -> mx.array:
        grouped = ranked.reshape(*ranked.shape[:-1], self.groups, -1)
        worth = mx.topk(grouped, min(2, grouped.shape[-1]), axis=-1).sum(axis=-1)  # (B, L, groups)
        barred = self.groups - self.group_top_k
        worst = mx.argpartition(worth, kth=barred - 1, axis=-1)[..., :barred, None]
        grouped = mx.put_along_axis(grouped, worst, mx.array(-mx.inf), axis=-2)
        return grouped.reshape(ranked.shape)


class SoftmaxRouter(nn.Module):
    """Shares one probability among all experts and keeps the largest, rescaled to one.

    Source: transformers, models/qwen3_next/modeling_qwen3_next.py.   Twin: naive/moe.py.
    """

    def __init__(self, dim: int, experts: int, top_k: int, *, normalize: bool = True):
        super().__init__()
        self.top_k, self.normalize = top_k, normalize
        self.gate = nn.Linear(dim, experts, bias=False)

    def __call__(self, x: mx.array) -> tuple[mx.array, mx.array]:
        """x (B, L, D) -> expert indices (B, L, k), their weights (B, L, k) float32."""
        shares = mx.softmax(self.gate(x.astype(mx.float32)), axis=-1)  # (B, L, N)
        chosen = mx.argpartition(-shares, kth=self.top_k - 1, axis=-1)[..., : self.top_k]
        weights = mx.take_along_axis(shares, chosen, axis=-1)
        if self.normalize:
            weights = weights / weights.sum(axis=-1, keepdims=True)
        return chosen, weights


class GatedExpert(SwiGLU):
    """An expert that every token uses, as far as a gate of its own lets it.

    Source: transformers, models/qwen3_next/modeling_qwen3_next.py.   Twin: naive/moe.py.
    """

    def __init__(self, dim: int, hidden: int):
        super().__init__(dim, hidden)
        self.gate = nn.Linear(dim, 1, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        """x (B, L, D) -> (B, L, D)."""
        return mx.sigmoid(self.gate(x)) * super().__call__(x)


class MoE(nn.Module):
    """Sum of the chosen experts, weighted, plus an expert that every token uses.

    Args:
        activation: Joins gate and value of an expert's hidden features.

    Source: arXiv:2401.06066, section 3.   Twin: naive/moe.py.
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        experts: int,
        *,
        router: nn.Module,
        shared: nn.Module | None = None,
        activation: Callable[[mx.array, mx.array], mx.array] = gated_by_silu,
    ):
        super().__init__()
        self.router, self.shared, self._activation = router, shared, activation
        self.experts = SwitchGLU(
            dim, hidden, experts, activation=lambda up, gate: activation(gate, up)
        )

    @replayed
    def __call__(self, x: mx.array) -> mx.array:
        """x (B, L, D) -> (B, L, D)."""
        chosen, weights = self.router(x)
        out = self.experts(x, chosen)  # (B, L, k, D)
        out = (out * weights[..., None]).sum(axis=-2).astype(x.dtype)
        return out if self.shared is None else out + self.shared(x)
