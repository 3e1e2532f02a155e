"""MiniMax M2.5 (MiniMax, February 2026). 230B, of which 10B are active; model_type "minimax_m2".

Grouped-query attention on every layer, whose queries and keys are normed over their full width
before they are split into heads, and of whose heads only the first features are rotated. Every
feed-forward is a mixture of experts, none of them shared.

Source: transformers, models/minimax_m2/modeling_minimax_m2.py.
"""

from dataclasses import dataclass
from functools import partial

import mlx.nn as nn

from mlxarch import config
from mlxarch.blocks.attention import Attention
from mlxarch.blocks.moe import MoE, SigmoidRouter
from mlxarch.blocks.rope import Rope
from mlxarch.config import hub
from mlxarch.decoder import Decoder


def _rotary_dim(raw) -> int:
    """transformers 5 gives the share of a head that is rotated."""
    share = (raw.get("rope_parameters") or {}).get("partial_rotary_factor", 1.0)
    return int(raw["head_dim"] * share)


@dataclass(frozen=True, kw_only=True)
class Config(config.Config):
    """The keys of a minimax_m2 config.json that shape the model."""

    only = {
        "hidden_act": "silu",
        "qk_norm_type": "per_layer",
        "scoring_func": "sigmoid",
        "shared_intermediate_size": 0,
        "use_qk_norm": True,
        "use_routing_bias": True,
    }

    vocab: int = hub("vocab_size")
    dim: int = hub("hidden_size")
    depth: int = hub("num_hidden_layers")
    heads: int = hub("num_attention_heads")
    kv_heads: int = hub("num_key_value_heads")
    head_dim: int = hub("head_dim")
    rotary_dim: int = hub("rotary_dim", default=_rotary_dim)
    rope_base: float = hub("rope_theta", "rope_parameters.rope_theta")
    rope_scaling: dict | None = hub("rope_scaling", default=config.scaling)
    norm_eps: float = hub("rms_norm_eps", default=1e-6)
    experts: int = hub("num_local_experts")
    top_k: int = hub("num_experts_per_tok")
    expert_hidden: int = hub("intermediate_size")
    tied: bool = hub("tie_word_embeddings", default=False)
    context: int = hub("max_position_embeddings")  # tokens


class WideNorm(nn.RMSNorm):
    """RMSNorm of all heads' features together: (B, L, H, E) -> the same shape."""

    def __call__(self, x):
        B, L, heads, _ = x.shape
        return super().__call__(x.reshape(B, L, -1)).reshape(B, L, heads, -1)


class Block(nn.Module):
    """Attention, then experts, each normed on its way in and added to the stream."""

    def __init__(self, c: Config):
        super().__init__()
        norm = partial(nn.RMSNorm, c.dim, eps=c.norm_eps)
        self.mixer_in, self.mlp_in = norm(), norm()
        self.mixer = Attention(
            c.dim,
            c.heads,
            c.kv_heads,
            c.head_dim,
            rope=Rope(c.rotary_dim, c.rope_base, scaling=c.rope_scaling),
            qk_norm=lambda heads, head_dim: WideNorm(heads * head_dim, eps=c.norm_eps),
        )
        router = SigmoidRouter(c.dim, c.experts, c.top_k)
        self.mlp = MoE(c.dim, c.expert_hidden, c.experts, router=router)

    def __call__(self, x, mask=None, cache=None):
        x = x + self.mixer(self.mixer_in(x), mask, cache)
        return x + self.mlp(self.mlp_in(x))


def build(c: Config) -> Decoder:
    blocks = [Block(c) for _ in range(c.depth)]
    norm = nn.RMSNorm(c.dim, eps=c.norm_eps)
    return Decoder(c.vocab, c.dim, blocks, norm, tied=c.tied)
