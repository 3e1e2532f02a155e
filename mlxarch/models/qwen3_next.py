"""Qwen3-Coder-Next 80B and Qwen3-Next 80B (Alibaba, 2026 and 2025); model_type "qwen3_next".

Three recurrent layers (Gated DeltaNet), then one of attention whose output is gated feature by
feature and of whose heads a quarter is rotated. Every feed-forward is a mixture of many small
experts with a shared one that has a gate of its own. One head predicts a further token, where the
checkpoint has it.

Source: transformers, models/qwen3_next/modeling_qwen3_next.py.
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial

import mlx.nn as nn

from mlxarch import config
from mlxarch.blocks import mtp
from mlxarch.blocks.attention import Attention
from mlxarch.blocks.delta import GatedDeltaNet
from mlxarch.blocks.moe import GatedExpert, MoE, SoftmaxRouter
from mlxarch.blocks.rope import Rope
from mlxarch.config import hub
from mlxarch.decoder import Decoder


@dataclass(frozen=True, kw_only=True)
class Config(config.Config):
    """The keys of a qwen3_next config.json that shape the model."""

    only = {
        "attention_bias": False,
        "decoder_sparse_step": 1,
        "hidden_act": "silu",
        "mlp_only_layers": [],
        "norm_topk_prob": True,
        "use_sliding_window": False,
    }
    kinds = ("linear_attention", "full_attention")

    vocab: int = hub("vocab_size")
    dim: int = hub("hidden_size")
    depth: int = hub("num_hidden_layers")
    heads: int = hub("num_attention_heads")
    kv_heads: int = hub("num_key_value_heads")
    head_dim: int = hub("head_dim", default=256)
    layer_types: list[str] = hub(
        "layer_types", default=config.one_full_in("full_attention_interval", "linear_attention")
    )
    linear_heads: int = hub("linear_num_value_heads")
    linear_key_heads: int = hub("linear_num_key_heads")
    linear_key_dim: int = hub("linear_key_head_dim")
    linear_value_dim: int = hub("linear_value_head_dim")
    taps: int = hub("linear_conv_kernel_dim")
    rotated: float = hub(
        "partial_rotary_factor", "rope_parameters.partial_rotary_factor", default=0.25
    )  # of a head
    rope_base: float = hub("rope_theta", "rope_parameters.rope_theta")
    rope_scaling: dict | None = hub("rope_scaling", default=config.scaling)
    norm_eps: float = hub("rms_norm_eps", default=1e-6)
    experts: int = hub("num_experts")
    top_k: int = hub("num_experts_per_tok")
    expert_hidden: int = hub("moe_intermediate_size")
    shared_hidden: int = hub("shared_expert_intermediate_size")
    tied: bool = hub("tie_word_embeddings", default=False)
    context: int = hub("max_position_embeddings")  # tokens


class Block(nn.Module):
    """A mixer, then experts, each normed on its way in and added to the stream."""

    def __init__(self, c: Config, kind: str):
        super().__init__()
        norm = partial(nn.RMSNorm, c.dim, eps=c.norm_eps)
        self.mixer_in, self.mlp_in = norm(), norm()
        if kind == "linear_attention":
            self.mixer = GatedDeltaNet(
                c.dim,
                c.linear_heads,
                c.linear_key_heads,
                c.linear_key_dim,
                c.linear_value_dim,
                c.taps,
                norm_eps=c.norm_eps,
            )
        else:
            self.mixer = Attention(
                c.dim,
                c.heads,
                c.kv_heads,
                c.head_dim,
                rope=Rope(int(c.head_dim * c.rotated), c.rope_base, scaling=c.rope_scaling),
                qk_norm=lambda _, head_dim: nn.RMSNorm(head_dim, eps=c.norm_eps),
                gates=c.head_dim,
            )
        router = SoftmaxRouter(c.dim, c.experts, c.top_k)
        shared = GatedExpert(c.dim, c.shared_hidden)
        self.mlp = MoE(c.dim, c.expert_hidden, c.experts, router=router, shared=shared)

    def __call__(self, x, mask=None, cache=None):
        x = x + self.mixer(self.mixer_in(x), mask, cache)
        return x + self.mlp(self.mlp_in(x))


def build(c: Config) -> Decoder:
    blocks = [Block(c, kind) for kind in c.layer_types]
    norm = nn.RMSNorm(c.dim, eps=c.norm_eps)
    return Decoder(c.vocab, c.dim, blocks, norm, tied=c.tied)


def build_mtp(c: Config, names: Collection[str]) -> list[mtp.MTPHead]:
    return [mtp.MTPHead(c.dim, Block(c, "full_attention"), norm_eps=c.norm_eps)]
