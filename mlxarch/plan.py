"""The plan of a model's layers as data: how each looks back, and what its feed-forward is.

It is read off the blocks as they are built, so that it cannot differ from what runs.
"""

from dataclasses import dataclass
from typing import Literal

import mlx.nn as nn

from .blocks.attention import Attention, nope
from .blocks.delta import GatedDeltaNet
from .blocks.lightning import LightningAttention
from .blocks.mla import LatentAttention
from .blocks.moe import MoE
from .blocks.sparse import SparseLatentAttention


@dataclass(frozen=True, kw_only=True)
class Mixer:
    """How a layer looks back, and what it has to keep for that."""

    kind: Literal["attention", "latent", "sparse", "delta", "lightning"]
    heads: int
    kv_heads: int  # that the query heads share; value heads share them in a DeltaNet
    head_dim: int
    window: int | None = None  # tokens in view, None for all
    chosen: int | None = None  # tokens in view that an indexer picks
    indexed: bool = False  # has an indexer of its own
    rotated: bool = False  # RoPE
    per_token: int = 0  # numbers kept for each token in view
    tail: int = 0  # numbers kept of the last inputs, whatever the length
    state: int = 0  # bytes kept whatever the length, in types of their own

    def cache_bytes(self, tokens: int, itemsize: int = 2) -> int:
        """Bytes kept after `tokens`, with numbers of `itemsize` bytes."""
        seen = tokens if self.window is None else min(tokens, self.window)
        return (seen * self.per_token + self.tail) * itemsize + self.state


@dataclass(frozen=True, kw_only=True)
class FeedForward:
    """A dense network, or a choice of experts: `chosen` of `experts`, each `hidden` wide."""

    hidden: int
    experts: int = 0
    chosen: int = 0
    shared: int = 0  # width of the expert that every token uses


@dataclass(frozen=True)
class Layer:
    """One block of the plan."""

    mixer: Mixer
    mlp: FeedForward


def layer(block: nn.Module) -> Layer:
    """What a block is, read from its own numbers."""
    return Layer(_mixer(block.mixer), _feed_forward(block.mlp))


def _mixer(m: nn.Module) -> Mixer:
    match m:
        case SparseLatentAttention():
            return Mixer(
                kind="sparse",
                heads=m.heads,
                kv_heads=m.heads,
                head_dim=_rows(m.q_b_proj) // m.heads,
                chosen=None if m.indexer is None else m.indexer.top_k,
                indexed=m.indexer is not None,
                rotated=True,
                per_token=_rows(m.kv_a_proj) + (0 if m.indexer is None else _rows(m.indexer.wk)),
            )
        case LatentAttention():
            return Mixer(
                kind="latent",
                heads=m.heads,
                kv_heads=m.heads,
                head_dim=_rows(m.q_b_proj) // m.heads,
                rotated=True,
                per_token=_rows(m.kv_a_proj),
            )
        case Attention():
            return Mixer(
                kind="attention",
                heads=m.heads,
                kv_heads=m.kv_heads,
                head_dim=_rows(m.q_proj) // m.heads,
                window=m.window,
                rotated=m.rope is not nope,
                per_token=_rows(m.k_proj) + _rows(m.v_proj),
            )
        case GatedDeltaNet():
            features, taps, _ = m.conv1d.weight.shape
            return Mixer(
                kind="delta",
                heads=m.heads,
                kv_heads=m.key_heads,
                head_dim=m.value_dim,
                tail=features * (taps - 1),
                state=4 * m.heads * m.key_dim * m.value_dim,
            )
        case LightningAttention():
            head_dim = _rows(m.query_key_value) // (3 * m.heads)
            return Mixer(
                kind="lightning",
                heads=m.heads,
                kv_heads=m.heads,
                head_dim=head_dim,
                rotated=True,
                # And how many tokens it has seen, an int32.
                state=4 * m.heads * head_dim**2 + 4,
            )
    raise TypeError(f"{type(m).__name__} is a mixer that plan.py does not know.")


def _feed_forward(mlp: nn.Module) -> FeedForward:
    if not isinstance(mlp, MoE):
        return FeedForward(hidden=_rows(mlp.gate_proj))
    experts, hidden, _ = mlp.experts.gate_proj.weight.shape
    return FeedForward(
        hidden=hidden,
        experts=experts,
        chosen=mlp.router.top_k,
        shared=0 if mlp.shared is None else _rows(mlp.shared.gate_proj),
    )


def _rows(linear: nn.Module) -> int:
    return linear.weight.shape[0]
