"""Tiny Aya (Cohere Labs, February 2026). 3.3B, about 70 languages; model_type "cohere2".

A parallel block: attention and feed-forward read one norm of the stream and both are added to
it. Three sliding-window layers with interleaved RoPE, then one full layer without position.
LayerNorm has no bias, and the input embedding is also the output head.

Source: transformers, models/cohere2/modeling_cohere2.py.
"""

from dataclasses import dataclass

import mlx.nn as nn

from mlxarch import config
from mlxarch.blocks.attention import Attention, nope
from mlxarch.blocks.mlp import SwiGLU
from mlxarch.blocks.rope import Rope
from mlxarch.config import hub
from mlxarch.decoder import Decoder


@dataclass(frozen=True, kw_only=True)
class Config(config.Config):
    """The keys of a cohere2 config.json that shape the model."""

    only = {
        "attention_bias": False,
        "hidden_act": "silu",
        "layer_norm_bias": False,
        "rope_scaling.rope_type": "default",
        "rope_scaling.type": "default",
        "rope_parameters.rope_type": "default",
        "rotary_pct": 1.0,
        "tie_word_embeddings": True,
        "use_gated_activation": True,
        "use_parallel_block": True,
        "use_qk_norm": False,
    }
    kinds = ("sliding_attention", "full_attention")

    vocab: int = hub("vocab_size")
    dim: int = hub("hidden_size")
    depth: int = hub("num_hidden_layers")
    heads: int = hub("num_attention_heads")
    kv_heads: int = hub("num_key_value_heads", default=lambda raw: raw["num_attention_heads"])
    head_dim: int = hub(
        "head_dim", default=lambda raw: raw["hidden_size"] // raw["num_attention_heads"]
    )
    hidden: int = hub("intermediate_size")
    layer_types: list[str] = hub(
        "layer_types", default=config.one_full_in("sliding_window_pattern", "sliding_attention")
    )
    window: int = hub("sliding_window", default=4096)  # tokens
    rope_base: float = hub("rope_theta", "rope_parameters.rope_theta")
    norm_eps: float = hub("layer_norm_eps", default=1e-5)
    logit_scale: float = hub("logit_scale", default=0.0625)
    context: int = hub("max_position_embeddings", default=8192)  # tokens

    def local(self, i: int) -> bool:
        """Whether layer i has a window."""
        return self.layer_types[i] == "sliding_attention"


class Block(nn.Module):
    """Attention and SwiGLU side by side, under one norm."""

    def __init__(self, c: Config, i: int):
        super().__init__()
        rope = Rope(c.head_dim, c.rope_base, interleaved=True) if c.local(i) else nope
        window = c.window if c.local(i) else None
        self.norm = nn.LayerNorm(c.dim, eps=c.norm_eps, bias=False)
        self.mixer = Attention(c.dim, c.heads, c.kv_heads, c.head_dim, rope=rope, window=window)
        self.mlp = SwiGLU(c.dim, c.hidden)

    def __call__(self, x, mask=None, cache=None):
        h = self.norm(x)
        return x + self.mixer(h, mask, cache) + self.mlp(h)


def build(c: Config) -> Decoder:
    blocks = [Block(c, i) for i in range(c.depth)]
    norm = nn.LayerNorm(c.dim, eps=c.norm_eps, bias=False)
    return Decoder(c.vocab, c.dim, blocks, norm, tied=True, logit_scale=c.logit_scale)
