"""GLM-5 (Z.ai, February 2026). 744B, of which 40B are active; model_type "glm_moe_dsa".

Latent attention to the 2,048 tokens that a small indexer of each layer chooses (DeepSeek Sparse
Attention), interleaved RoPE in both; later releases let layers share one indexer's choice. Three
dense layers, then experts chosen by sigmoid scores. One head predicts a further token.

Source: transformers, models/glm_moe_dsa/modeling_glm_moe_dsa.py.
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial

import mlx.nn as nn

from mlxarch import config
from mlxarch.blocks import mtp
from mlxarch.blocks.mlp import SwiGLU
from mlxarch.blocks.moe import MoE, SigmoidRouter
from mlxarch.blocks.rope import Rope, softmax_factor
from mlxarch.blocks.sparse import Indexer, SparseLatentAttention
from mlxarch.config import hub
from mlxarch.decoder import Decoder
from mlxarch.errors import ConfigError


def _indexer_types(raw) -> list[str]:
    """Which layers have an indexer of their own; those without share the last one's choice."""
    depth = raw["num_hidden_layers"]
    if (pattern := raw.get("index_topk_pattern")) is not None:
        return [{"F": "full", "S": "shared"}.get(kind, kind) for kind in pattern]
    every, skipped = max(raw.get("index_topk_freq", 1), 1), raw.get("index_skip_topk_offset", 2)
    own = [max(i - skipped + 1, 0) % every == 0 for i in range(depth)]
    return ["full" if full else "shared" for full in own]


def _dense_layers(raw) -> int:
    """transformers 5 lists the kinds of feed-forwards."""
    kinds = raw["mlp_layer_types"]
    dense = kinds.count("dense")
    if kinds != ["dense"] * dense + ["sparse"] * (len(kinds) - dense):
        raise ConfigError(
            f"mlp_layer_types is {kinds!r}; this port knows dense layers first, then sparse ones."
        )
    return dense


@dataclass(frozen=True, kw_only=True)
class Config(config.Config):
    """The keys of a glm_moe_dsa config.json that shape the model."""

    only = {
        "attention_bias": False,
        "hidden_act": "silu",
        "indexer_rope_interleave": True,
        "mlp_bias": False,
        "moe_layer_freq": 1,
        "rope_interleave": True,
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
    }

    vocab: int = hub("vocab_size")
    dim: int = hub("hidden_size")
    depth: int = hub("num_hidden_layers")
    heads: int = hub("num_attention_heads")
    query_rank: int = hub("q_lora_rank")
    rank: int = hub("kv_lora_rank")
    head_dim: int = hub("qk_nope_head_dim")
    rotated_dim: int = hub("qk_rope_head_dim")
    value_dim: int = hub("v_head_dim")
    index_heads: int = hub("index_n_heads")
    index_dim: int = hub("index_head_dim")
    index_top_k: int = hub("index_topk")
    indexer_types: list[str] = hub("indexer_types", default=_indexer_types)
    rope_base: float = hub("rope_theta", "rope_parameters.rope_theta")
    rope_scaling: dict | None = hub("rope_scaling", default=config.scaling)
    norm_eps: float = hub("rms_norm_eps", default=1e-6)
    hidden: int = hub("intermediate_size")
    # The first layers have no experts.
    dense_layers: int = hub("first_k_dense_replace", default=_dense_layers, least=0)
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

    def __init__(self, c: Config, i: int, *, indexed: bool):
        super().__init__()
        norm = partial(nn.RMSNorm, c.dim, eps=c.norm_eps)
        rope = Rope(c.rotated_dim, c.rope_base, interleaved=True, scaling=c.rope_scaling)
        self.mixer_in, self.mlp_in = norm(), norm()
        indexer = Indexer(
            c.dim,
            c.index_heads,
            query_rank=c.query_rank,
            head_dim=c.index_dim,
            rotated_dim=c.rotated_dim,
            top_k=c.index_top_k,
            rope=rope,
        )
        self.mixer = SparseLatentAttention(
            c.dim,
            c.heads,
            indexer=indexer if indexed else None,
            query_rank=c.query_rank,
            rank=c.rank,
            head_dim=c.head_dim,
            rotated_dim=c.rotated_dim,
            value_dim=c.value_dim,
            rope=rope,
            softmax_factor=softmax_factor(c.rope_scaling),
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
    kinds = c.indexer_types
    if len(kinds) != c.depth or kinds[0] != "full" or not set(kinds) <= {"full", "shared"}:
        raise ConfigError(
            f"indexer_types is {kinds!r}; wanted is full or shared for each of {c.depth} layers, "
            "full for the first."
        )
    blocks = [Block(c, i, indexed=kind == "full") for i, kind in enumerate(kinds)]
    norm = nn.RMSNorm(c.dim, eps=c.norm_eps)
    return Decoder(c.vocab, c.dim, blocks, norm, tied=c.tied)


def build_mtp(c: Config, names: Collection[str]) -> list[mtp.MTPHead]:
    indexed = [f"mtp.{j}.block.mixer.indexer.wk.weight" in names for j in range(mtp.count(names))]
    blocks = [Block(c, c.depth + j, indexed=own) for j, own in enumerate(indexed)]
    return [mtp.MTPHead(c.dim, block, norm_eps=c.norm_eps) for block in blocks]
