"""Step 3.5 Flash (StepFun, February 2026). 196B, of which 11B are active; model_type "step3p5".

One full layer, then three with a window of 512; the two kinds differ in query heads, rotary
width and RoPE base, and only full layers stretch their positions. Queries and keys are normed
head by head, and one gate a head scales the output. Three dense layers, then experts of which the
last ones clamp their features. Three heads predict further tokens.

Source: transformers, models/step3p7/modeling_step3p7.py; the released config.json.
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial

import mlx.core as mx
import mlx.nn as nn

from mlxarch import config
from mlxarch.blocks import mtp
from mlxarch.blocks.attention import Attention
from mlxarch.blocks.mlp import SwiGLU, gated_by_silu
from mlxarch.blocks.moe import MoE, SigmoidRouter
from mlxarch.blocks.rope import Rope
from mlxarch.config import hub
from mlxarch.decoder import Decoder
from mlxarch.errors import ConfigError


def _layer_types(raw) -> list[str]:
    """Of all layers and then of all heads; transformers 5 lists them apart."""
    return [*raw["layer_types"], *raw.get("mtp_layer_types", [])]


@dataclass(frozen=True)
class Rotation:
    """A layer's RoPE: its base, the share of a head that it rotates, and what stretches it."""

    base: float
    share: float
    scaling: dict | None


def _rotations(raw) -> list[Rotation]:
    """One for each layer and each head; transformers 5 lists them by kind of layer."""
    kinds = _layer_types(raw)
    if "rope_parameters" in raw:
        given = [raw["rope_parameters"][kind] for kind in kinds]
        bases = [each["rope_theta"] for each in given]
        shares = [each["partial_rotary_factor"] for each in given]
        scalings = [config.scaling({"rope_parameters": each}) for each in given]
    else:
        bases, shares = raw["rope_theta"], raw["partial_rotary_factors"]
        stretched = raw.get("yarn_only_types") or kinds
        scalings = [raw.get("rope_scaling") if kind in stretched else None for kind in kinds]
    return [
        Rotation(float(base), float(share), scaling)
        for base, share, scaling in zip(bases, shares, scalings, strict=True)
    ]


def _limits(key: str):
    """What each layer and each head clamps its features to; 0.0 where it does not."""

    def limits(raw) -> list[float]:
        count, given = len(_layer_types(raw)), list(raw.get(key) or [])
        return [float(limit or 0) for limit in [*given, *[None] * count][:count]]

    return limits


def _sparse_layers(raw) -> list[int]:
    if "mlp_layer_types" in raw:
        return [i for i, kind in enumerate(raw["mlp_layer_types"]) if kind == "sparse"]
    listed = raw.get("moe_layers_enum")
    return (
        [int(i) for i in listed.split(",")] if listed else list(range(3, raw["num_hidden_layers"]))
    )


@dataclass(frozen=True, kw_only=True)
class Config(config.Config):
    """The keys of a step3p5 config.json that shape the model."""

    only = {
        "attention_bias": False,
        "hidden_act": "silu",
        "moe_router_activation": "sigmoid",
        "norm_expert_weight": True,
        "use_head_wise_attn_gate": True,
        "use_moe_router_bias": True,
        "use_qk_norm": True,
        "zero_centered": True,
    }
    kinds = ("sliding_attention", "full_attention")
    heads_listed = True

    vocab: int = hub("vocab_size")
    dim: int = hub("hidden_size")
    depth: int = hub("num_hidden_layers")
    heads: int = hub("num_attention_heads")
    local_heads: int = hub(
        "attention_other_setting.num_attention_heads",
        "num_sliding_attention_heads",
        default=lambda raw: raw["num_attention_heads"],
    )
    kv_heads: int = hub("num_attention_groups", "num_key_value_heads")
    head_dim: int = hub("head_dim")
    layer_types: list[str] = hub(default=_layer_types)
    rotations: list[Rotation] = hub(default=_rotations)
    window: int = hub("sliding_window")  # tokens
    norm_eps: float = hub("rms_norm_eps", default=1e-5)
    hidden: int = hub("intermediate_size")
    sparse_layers: list[int] = hub(default=_sparse_layers)
    experts: int = hub("moe_num_experts", "n_routed_experts")
    top_k: int = hub("moe_top_k", "num_experts_per_tok")
    expert_hidden: int = hub("moe_intermediate_size")
    shared_hidden: int = hub("share_expert_dim")
    route_scale: float = hub("moe_router_scaling_factor")
    limits: list[float] = hub(default=_limits("swiglu_limits"))
    shared_limits: list[float] = hub(default=_limits("swiglu_limits_shared"))
    tied: bool = hub("tie_word_embeddings", default=False)
    context: int = hub("max_position_embeddings")  # tokens


def clamped(limit: float):
    """SiLU, clamped on both sides of the product where there is a limit."""
    if not limit:
        return gated_by_silu
    return lambda gate, up: mx.minimum(nn.silu(gate), limit) * mx.clip(up, -limit, limit)


class Block(nn.Module):
    """Attention, then feed-forward, each normed on its way in and added to the stream."""

    def __init__(self, c: Config, i: int):
        super().__init__()
        norm = partial(nn.RMSNorm, c.dim, eps=c.norm_eps)
        local, turn = c.layer_types[i] == "sliding_attention", c.rotations[i]
        self.mixer_in, self.mlp_in = norm(), norm()
        self.mixer = Attention(
            c.dim,
            c.local_heads if local else c.heads,
            c.kv_heads,
            c.head_dim,
            rope=Rope(int(c.head_dim * turn.share), turn.base, scaling=turn.scaling),
            window=c.window if local else None,
            qk_norm=lambda _, head_dim: nn.RMSNorm(head_dim, eps=c.norm_eps),
            gates=1,
        )
        shared = clamped(c.shared_limits[i])
        if i not in c.sparse_layers:
            self.mlp = SwiGLU(c.dim, c.hidden, activation=shared)
        else:
            self.mlp = MoE(
                c.dim,
                c.expert_hidden,
                c.experts,
                router=SigmoidRouter(c.dim, c.experts, c.top_k, scale=c.route_scale),
                shared=SwiGLU(c.dim, c.shared_hidden, activation=shared),
                activation=clamped(c.limits[i]),
            )

    def __call__(self, x, mask=None, cache=None):
        x = x + self.mixer(self.mixer_in(x), mask, cache)
        return x + self.mlp(self.mlp_in(x))


def build(c: Config) -> Decoder:
    blocks = [Block(c, i) for i in range(c.depth)]
    norm = nn.RMSNorm(c.dim, eps=c.norm_eps)
    return Decoder(c.vocab, c.dim, blocks, norm, tied=c.tied)


def build_mtp(c: Config, names: Collection[str]) -> list[mtp.MTPHead]:
    # Each released head has an output head of its own; without one it shares the model's.
    vocab = c.vocab if "mtp.0.head.weight" in names else None
    heads, listed = mtp.count(names), len(c.layer_types) - c.depth
    if heads > listed:
        raise ConfigError(f"layer_types lists {listed} heads for further tokens; {heads} are here.")
    blocks = [Block(c, c.depth + j) for j in range(heads)]
    return [mtp.MTPHead(c.dim, block, norm_eps=c.norm_eps, vocab=vocab) for block in blocks]
