"""Feed-forward networks. Shapes as in attention.py."""

import mlx.core as mx
import mlx.nn as nn


class SwiGLU(nn.Module):
    """A feed-forward network whose hidden features are gated by SiLU.

    Source: arXiv:2002.05202, section 2.   Twin: naive/mlp.py.
    """

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.gate_proj = nn.Linear(dim, hidden, bias=False)
        self.up_proj = nn.Linear(dim, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, dim, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        """x (B, L, D) -> (B, L, D)."""
        return self.down_proj(nn.silu(self.gate_proj(x)) * self.up_proj(x))
