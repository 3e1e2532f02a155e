"""Ling 2.5 1T and Ring 2.5 1T (Ant Group, February 2026), of which 63B are active; model_type
"bailing_hybrid" with architectures BailingMoeV2_5ForCausalLM (others bear the same model_type).

Seven layers of lightning attention, whose memory fades at a pace fixed by head and layer, then
one of latent attention. Four dense layers, then experts chosen by sigmoid scores from the best of
eight groups.

Source: inclusionAI/Ling-V2.5, modeling_bailing_moe_v2_5.py.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial

import mlx.nn as nn

from mlxarch import config
from mlxarch.blocks import mtp
from mlxarch.blocks.lightning import LightningAttention
from mlxarch.blocks.mla import LatentAttention
from mlxarch.blocks.mlp import SwiGLU
from mlxarch.blocks.moe import MoE, SigmoidRouter
from mlxarch.blocks.rope import Rope, softmax_factor
from mlxarch.config import hub
from mlxarch.decoder import Decoder


@dataclass(frozen=True, kw_only=True)
class Config(config.Config):
    """The keys of a BailingMoeV2_5 config.json that shape the model."""

    only = {
        "hidden_act": "silu",
        "linear_silu": False,
        "moe_router_enable_expert_bias": True,
        "rope_interleave": True,
        "score_function": "sigmoid",
        "use_bias": False,
        "use_qk_norm": True,
        "use_qkv_bias": False,
    }

    vocab: int = hub("vocab_size")
    dim: int = hub("hidden_size")
    depth: int = hub("num_hidden_layers")
    heads: int = hub("num_attention_heads")
    head_size: int = hub(
        "head_dim", default=lambda raw: raw["hidden_size"] // raw["num_attention_heads"]
    )
    period: int = hub("layer_group_size")  # layers, of which the last is latent attention
    norm_groups: int = hub("group_norm_size")
    query_rank: int = hub("q_lora_rank")
    rank: int = hub("kv_lora_rank")
    head_dim: int = hub("qk_nope_head_dim")
    rotated_dim: int = hub("qk_rope_head_dim")
    value_dim: int = hub("v_head_dim")
    rotated: float = hub(
        "partial_rotary_factor", "rope_parameters.partial_rotary_factor", default=1.0
    )  # of a lightning head
    rope_base: float = hub("rope_theta", "rope_parameters.rope_theta")
    rope_scaling: dict | None = hub("rope_scaling", default=config.scaling)
    norm_eps: float = hub("rms_norm_eps", default=1e-6)
    hidden: int = hub("intermediate_size")
    dense_layers: int = hub("first_k_dense_replace", least=0)  # the first ones have no experts
    experts: int = hub("num_experts")
    shared_experts: int = hub("num_shared_experts", least=0)
    shared_hidden: int = hub(
        "moe_shared_expert_intermediate_size", default=lambda raw: raw["moe_intermediate_size"]
    )
    top_k: int = hub("num_experts_per_tok")
    expert_hidden: int = hub("moe_intermediate_size")
    groups: int = hub("n_group")
    group_top_k: int = hub("topk_group")
    normalize: bool = hub("norm_topk_prob", default=True)
    route_scale: float = hub("routed_scaling_factor")
    tied: bool = hub("tie_word_embeddings", default=False)
    context: int = hub("max_position_embeddings")  # tokens

    def latent(self, i: int) -> bool:
        """Whether layer i attends; a last group that is not whole attends throughout."""
        return (i + 1) % self.period == 0 or i >= self.depth // self.period * self.period


def decays(heads: int, layer: int, depth: int) -> list[float]:
    """Each head's log decay a token in a lightning layer.

    Slopes as ALiBi's, times a factor that shrinks with depth. Which factor is disputed: the
    publisher's code, sgl-jax and the publisher's trainer take 1 - (layer - 1) / (depth - 1) + 1e-5;
    SGLang, vLLM and mlx-lm take 1 - layer / (depth - 1) + 1e-5. Training on released weights began
    at a loss of 0.567 with the first and 7.8 with the second, so the first is taken here.
    """
    factor = 1 - (layer - 1) / max(depth - 1, 1) + 1e-5
    return [-slope * factor for slope in _alibi(heads)]


def _alibi(heads: int) -> list[float]:
    """arXiv:2108.12409: a geometric series, filled up from the next one between powers of two."""
    whole = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * (h + 1) / whole) for h in range(whole)]
    between = [2 ** (-8 * (h + 1) / (2 * whole)) for h in range(0, 2 * whole, 2)]
    return slopes + between[: heads - whole]


class Block(nn.Module):
    """A mixer, then a feed-forward, each normed on its way in and added to the stream."""

    def __init__(self, c: Config, i: int):
        super().__init__()
        norm = partial(nn.RMSNorm, c.dim, eps=c.norm_eps)
        rope = partial(Rope, base=c.rope_base, scaling=c.rope_scaling)
        self.mixer_in, self.mlp_in = norm(), norm()
        if c.latent(i):
            self.mixer = LatentAttention(
                c.dim,
                c.heads,
                query_rank=c.query_rank,
                rank=c.rank,
                head_dim=c.head_dim,
                rotated_dim=c.rotated_dim,
                value_dim=c.value_dim,
                rope=rope(c.rotated_dim, interleaved=True),
                softmax_factor=softmax_factor(c.rope_scaling),
                norm_eps=c.norm_eps,
            )
        else:
            self.mixer = LightningAttention(
                c.dim,
                c.heads,
                c.head_size,
                decay=decays(c.heads, i, c.depth),
                groups=c.norm_groups,
                rope=rope(int(c.head_size * c.rotated)),
                norm_eps=c.norm_eps,
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
            hidden = c.shared_hidden * c.shared_experts
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
