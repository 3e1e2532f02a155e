"""Feed-forward networks. Shapes as in attention.py."""

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn

from .replay import replayed


def gated_by_silu(gate: mx.array, up: mx.array) -> mx.array:
    """Features scaled by the SiLU of their gates."""
    return nn.silu(gate) * up


class SwiGLU(nn.Module):
    """A feed-forward network whose hidden features are gated by SiLU.

    Args:
        activation: Joins gate and value of the hidden features.

    Source: arXiv:2002.05202, section 2.   Twin: naive/mlp.py.
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        activation: Callable[[mx.array, mx.array], mx.array] = gated_by_silu,
    ):
        super().__init__()
        self.gate_proj = nn.Linear(dim, hidden, bias=False)
        self.up_proj = nn.Linear(dim, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, dim, bias=False)
        self._activation = activation

    @replayed
    def __call__(self, x: mx.array) -> mx.array:
        """x (B, L, D) -> (B, L, D)."""
        return self.down_proj(self._activation(self.gate_proj(x), self.up_proj(x)))
