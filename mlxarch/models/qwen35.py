"""Qwen 3.5 (Alibaba, February 2026). Dense 0.8B to 27B and experts of 35B to 397B; model_type
"qwen3_5", "qwen3_5_moe", and the same with "_text" for the language model alone.

Three recurrent layers (Gated DeltaNet), then one of attention whose output is gated feature by
feature and of whose heads a quarter is rotated. The feed-forward is SwiGLU, or many small experts
with a shared one that has a gate of its own. One head predicts a further token. A token of a
picture is rotated by time, row and column, for which the pairs of a head take turns; in text the
three are equal. The tower is in vision/qwen35.py.

Source: transformers, models/qwen3_5/modeling_qwen3_5.py and models/qwen3_5_moe.
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial

import mlx.nn as nn

from mlxarch import config
from mlxarch.blocks import mtp
from mlxarch.blocks.attention import Attention
from mlxarch.blocks.delta import GatedDeltaNet
from mlxarch.blocks.mlp import SwiGLU
from mlxarch.blocks.moe import GatedExpert, MoE, SoftmaxRouter
from mlxarch.blocks.rope import Rope
from mlxarch.config import hub
from mlxarch.decoder import Decoder
from mlxarch.errors import ConfigError


def _image_axes(raw) -> dict:
    told = raw.get("rope_parameters") or {}
    section = told.get("mrope_section", [11, 11, 10])
    if not isinstance(section, list) or [type(count) for count in section] != [int] * 3:
        raise ConfigError(f"mrope_section is {section!r} in config.json; three numbers are wanted.")
    return {key: value for key, value in told.items() if key.startswith("mrope_")}


def _size(key: str, *, sparse: bool):
    """A size that only a feed-forward of experts needs, or only a dense one; 0 in the other."""
    return hub(
        key, default=lambda raw: raw[key] if bool(raw.get("num_experts")) == sparse else 0, least=0
    )


@dataclass(frozen=True, kw_only=True)
class Config(config.Config):
    """The keys of a qwen3_5 or qwen3_5_moe config.json that shape the model."""

    only = {
        "attention_bias": False,
        "attn_output_gate": True,
        "hidden_act": "silu",
        "mtp_use_dedicated_embeddings": False,
        "output_gate_type": "sigmoid",
    }
    kinds = ("linear_attention", "full_attention")

    wrapped: bool = hub(default=lambda raw: "text_config" in raw)  # beside a vision tower
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
    image_axes: dict = hub(default=_image_axes)  # how places in a picture are rotated
    norm_eps: float = hub("rms_norm_eps", default=1e-6)
    hidden: int = _size("intermediate_size", sparse=False)
    experts: int = hub("num_experts", default=0, least=0)  # 0: a dense feed-forward
    top_k: int = _size("num_experts_per_tok", sparse=True)
    expert_hidden: int = _size("moe_intermediate_size", sparse=True)
    shared_hidden: int = _size("shared_expert_intermediate_size", sparse=True)
    tied: bool = hub("tie_word_embeddings", default=False)
    context: int = hub("max_position_embeddings")  # tokens


class Block(nn.Module):
    """A mixer, then a feed-forward, each normed on its way in and added to the stream."""

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
                rope=Rope(
                    int(c.head_dim * c.rotated),
                    c.rope_base,
                    scaling=c.rope_scaling,
                    axes=c.image_axes.get("mrope_section", (11, 11, 10)),
                ),
                qk_norm=lambda _, head_dim: nn.RMSNorm(head_dim, eps=c.norm_eps),
                gates=c.head_dim,
            )
        if not c.experts:
            self.mlp = SwiGLU(c.dim, c.hidden)
        else:
            router = SoftmaxRouter(c.dim, c.experts, c.top_k)
            shared = GatedExpert(c.dim, c.shared_hidden)
            self.mlp = MoE(c.dim, c.expert_hidden, c.experts, router=router, shared=shared)

    def __call__(self, x, mask=None, cache=None, places=None):
        if isinstance(self.mixer, Attention):
            x = x + self.mixer(self.mixer_in(x), mask, cache, places)
        else:
            x = x + self.mixer(self.mixer_in(x), mask, cache)
        return x + self.mlp(self.mlp_in(x))


def build(c: Config) -> Decoder:
    blocks = [Block(c, kind) for kind in c.layer_types]
    norm = nn.RMSNorm(c.dim, eps=c.norm_eps)
    return Decoder(c.vocab, c.dim, blocks, norm, tied=c.tied)


def build_mtp(c: Config, names: Collection[str]) -> list[mtp.MTPHead]:
    return [mtp.MTPHead(c.dim, Block(c, "full_attention"), norm_eps=c.norm_eps)]
