"""Trinity (Arcee AI, January 2026). Nano 6B, Mini 26B, Large 400B; model_type "afmoe".

Three sliding-window layers with RoPE, then one full layer without position. Queries and keys are
normed head by head, the output of attention is gated feature by feature, each half of a block is
normed on its way in and on its way out, and embeddings are scaled by the root of their width.
After the first layers the feed-forward is a mixture of experts.

Source: transformers, models/afmoe/modeling_afmoe.py.
"""

from dataclasses import dataclass
from functools import partial

import mlx.nn as nn

from mlxarch import config
from mlxarch.blocks.attention import Attention, nope
from mlxarch.blocks.mlp import SwiGLU
from mlxarch.blocks.moe import MoE, SigmoidRouter
from mlxarch.blocks.rope import Rope
from mlxarch.config import hub
from mlxarch.decoder import Decoder


@dataclass(frozen=True, kw_only=True)
class Config(config.Config):
    """The keys of an afmoe config.json that shape the model."""

    only = {
        "attention_bias": False,
        "hidden_act": "silu",
        "n_group": 1,
        "num_expert_groups": 1,
        "rope_scaling.rope_type": "default",
        "rope_scaling.type": "default",
        "rope_parameters.rope_type": "default",
        "route_norm": True,
        "score_func": "sigmoid",
    }
    kinds = ("sliding_attention", "full_attention")

    vocab: int = hub("vocab_size")
    dim: int = hub("hidden_size")
    depth: int = hub("num_hidden_layers")
    heads: int = hub("num_attention_heads")
    kv_heads: int = hub("num_key_value_heads", default=lambda raw: raw["num_attention_heads"])
    head_dim: int = hub("head_dim", default=128)
    layer_types: list[str] = hub(
        "layer_types", default=config.one_full_in("global_attn_every_n_layers", "sliding_attention")
    )
    window: int = hub("sliding_window")  # tokens
    rope_base: float = hub("rope_theta", "rope_parameters.rope_theta")
    norm_eps: float = hub("rms_norm_eps", default=1e-5)
    hidden: int = hub("intermediate_size")
    dense_layers: int = hub("num_dense_layers", least=0)  # the first ones have no experts
    experts: int = hub("num_experts")
    top_k: int = hub("num_experts_per_tok")
    expert_hidden: int = hub("moe_intermediate_size")
    shared_experts: int = hub("num_shared_experts", least=0)
    route_scale: float = hub("route_scale")
    mup: bool = hub("mup_enabled", default=False)  # embeddings times sqrt(dim)
    tied: bool = hub("tie_word_embeddings", default=False)
    context: int = hub("max_position_embeddings")  # tokens


class Block(nn.Module):
    """Attention, then feed-forward, each between two norms."""

    def __init__(self, c: Config, i: int):
        super().__init__()
        norm = partial(nn.RMSNorm, c.dim, eps=c.norm_eps)
        local = c.layer_types[i] == "sliding_attention"
        self.mixer_in, self.mixer_out = norm(), norm()
        self.mixer = Attention(
            c.dim,
            c.heads,
            c.kv_heads,
            c.head_dim,
            rope=Rope(c.head_dim, c.rope_base) if local else nope,
            window=c.window if local else None,
            qk_norm=lambda _, head_dim: nn.RMSNorm(head_dim, eps=c.norm_eps),
            gates=c.head_dim,
        )
        self.mlp_in, self.mlp_out = norm(), norm()
        if i < c.dense_layers:
            self.mlp = SwiGLU(c.dim, c.hidden)
        else:
            router = SigmoidRouter(c.dim, c.experts, c.top_k, scale=c.route_scale)
            hidden = c.expert_hidden * c.shared_experts
            shared = SwiGLU(c.dim, hidden) if hidden else None
            self.mlp = MoE(c.dim, c.expert_hidden, c.experts, router=router, shared=shared)

    def __call__(self, x, mask=None, cache=None):
        x = x + self.mixer_out(self.mixer(self.mixer_in(x), mask, cache))
        return x + self.mlp_out(self.mlp(self.mlp_in(x)))


def build(c: Config) -> Decoder:
    blocks = [Block(c, i) for i in range(c.depth)]
    norm = nn.RMSNorm(c.dim, eps=c.norm_eps)
    scale = c.dim**0.5 if c.mup else 1.0
    return Decoder(c.vocab, c.dim, blocks, norm, tied=c.tied, embed_scale=scale)
