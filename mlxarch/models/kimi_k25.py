"""Kimi K2.5 (Moonshot AI, January 2026). 1T, of which 32B are active; model_type "kimi_k25", and
by the same blocks Kimi K2 and DeepSeek V3 ("kimi_k2", "deepseek_v3"). The language model; the tower
of Kimi K2.5 is in vision/kimi_k25.py.

Latent attention on every layer; one dense layer, then experts chosen by sigmoid scores, within
groups where there are any. RoPE is interleaved and stretched by YaRN, which also sharpens the
softmax.

Source: transformers, models/deepseek_v3/modeling_deepseek_v3.py and models/kimi_k25.
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial

import mlx.nn as nn

from mlxarch import config
from mlxarch.blocks import mtp
from mlxarch.blocks.mla import LatentAttention
from mlxarch.blocks.mlp import SwiGLU
from mlxarch.blocks.moe import MoE, SigmoidRouter
from mlxarch.blocks.rope import Rope, softmax_factor
from mlxarch.config import hub
from mlxarch.decoder import Decoder


@dataclass(frozen=True, kw_only=True)
class Config(config.Config):
    """The keys of a kimi_k25, kimi_k2 or deepseek_v3 config.json that shape the model."""

    only = {
        "attention_bias": False,
        "hidden_act": "silu",
        "moe_layer_freq": 1,
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
    }

    wrapped: bool = hub(default=lambda raw: "text_config" in raw)  # beside a vision tower
    vocab: int = hub("vocab_size")
    dim: int = hub("hidden_size")
    depth: int = hub("num_hidden_layers")
    heads: int = hub("num_attention_heads")
    query_rank: int = hub("q_lora_rank")
    rank: int = hub("kv_lora_rank")
    head_dim: int = hub("qk_nope_head_dim")
    rotated_dim: int = hub("qk_rope_head_dim")
    value_dim: int = hub("v_head_dim")
    rope_base: float = hub("rope_theta", "rope_parameters.rope_theta")
    rope_scaling: dict | None = hub("rope_scaling", default=config.scaling)
    rope_interleaved: bool = hub("rope_interleave", default=True)
    norm_eps: float = hub("rms_norm_eps", default=1e-6)
    hidden: int = hub("intermediate_size")
    dense_layers: int = hub("first_k_dense_replace", least=0)  # the first ones have no experts
    experts: int = hub("n_routed_experts")
    shared_experts: int = hub("n_shared_experts", least=0)
    top_k: int = hub("num_experts_per_tok")
    expert_hidden: int = hub("moe_intermediate_size")
    groups: int = hub("n_group")
    group_top_k: int = hub("topk_group")
    normalize: bool = hub("norm_topk_prob")
    route_scale: float = hub("routed_scaling_factor")
    tied: bool = hub("tie_word_embeddings", default=False)
    context: int = hub("max_position_embeddings")  # tokens


class Block(nn.Module):
    """Attention, then feed-forward, each normed on its way in and added to the stream."""

    def __init__(self, c: Config, i: int):
        super().__init__()
        norm = partial(nn.RMSNorm, c.dim, eps=c.norm_eps)
        scaling, interleaved = c.rope_scaling, c.rope_interleaved
        self.mixer_in, self.mlp_in = norm(), norm()
        self.mixer = LatentAttention(
            c.dim,
            c.heads,
            query_rank=c.query_rank,
            rank=c.rank,
            head_dim=c.head_dim,
            rotated_dim=c.rotated_dim,
            value_dim=c.value_dim,
            rope=Rope(c.rotated_dim, c.rope_base, interleaved=interleaved, scaling=scaling),
            softmax_factor=softmax_factor(scaling),
            # The reference gives these norms their default, not the config's rms_norm_eps.
            norm_eps=1e-6,
        )
        if i < c.dense_layers:
            self.mlp = SwiGLU(c.dim, c.hidden)
        else:
            router = SigmoidRouter(
                c.dim,
                c.experts,
                c.top_k,
                scale=c.route_scale,
                groups=c.groups,
                group_top_k=c.group_top_k,
                normalize=c.normalize,
            )
            hidden = c.expert_hidden * c.shared_experts
            shared = SwiGLU(c.dim, hidden) if hidden else None
            self.mlp = MoE(c.dim, c.expert_hidden, c.experts, router=router, shared=shared)

    def __call__(self, x, mask=None, cache=None):
        x = x + self.mixer(self.mixer_in(x), mask, cache)
        return x + self.mlp(self.mlp_in(x))


def build(c: Config) -> Decoder:
    blocks = [Block(c, i) for i in range(c.depth)]
    norm = nn.RMSNorm(c.dim, eps=c.norm_eps)
    return Decoder(c.vocab, c.dim, blocks, norm, tied=c.tied)


def build_mtp(c: Config, names: Collection[str]) -> list[mtp.MTPHead]:
    blocks = [Block(c, c.depth + j) for j in range(mtp.count(names))]
    return [mtp.MTPHead(c.dim, block, norm_eps=c.norm_eps) for block in blocks]
