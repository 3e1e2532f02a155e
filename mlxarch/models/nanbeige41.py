"""Nanbeige 4.1 3B (Nanbeige, February 2026) and plain Llama; model_type "llama".

The plainest decoder there is: pre-norm, grouped-query attention with RoPE on every layer, SwiGLU.
What sets Nanbeige apart is a RoPE base of 70 million and an output head of its own where models
of its size share it with the embedding.

Source: transformers, models/llama/modeling_llama.py.
"""

from dataclasses import dataclass
from functools import partial

import mlx.nn as nn

from mlxarch import config
from mlxarch.blocks.attention import Attention
from mlxarch.blocks.mlp import SwiGLU
from mlxarch.blocks.rope import Rope
from mlxarch.config import hub
from mlxarch.decoder import Decoder


@dataclass(frozen=True, kw_only=True)
class Config(config.Config):
    """The keys of a llama config.json that shape the model."""

    only = {
        "attention_bias": False,
        "mlp_bias": False,
        "hidden_act": "silu",
    }

    vocab: int = hub("vocab_size")
    dim: int = hub("hidden_size")
    depth: int = hub("num_hidden_layers")
    heads: int = hub("num_attention_heads")
    kv_heads: int = hub("num_key_value_heads", default=lambda raw: raw["num_attention_heads"])
    head_dim: int = hub(
        "head_dim", default=lambda raw: raw["hidden_size"] // raw["num_attention_heads"]
    )
    hidden: int = hub("intermediate_size")
    rope_base: float = hub("rope_theta", "rope_parameters.rope_theta")
    rope_scaling: dict | None = hub("rope_scaling", default=config.scaling)
    norm_eps: float = hub("rms_norm_eps", default=1e-6)
    tied: bool = hub("tie_word_embeddings", default=False)
    context: int = hub("max_position_embeddings", default=2048)  # tokens


class Block(nn.Module):
    """Attention, then SwiGLU, each normed on its way in and added to the stream."""

    def __init__(self, c: Config):
        super().__init__()
        norm = partial(nn.RMSNorm, c.dim, eps=c.norm_eps)
        rope = Rope(c.head_dim, c.rope_base, scaling=c.rope_scaling)
        self.mixer_in, self.mlp_in = norm(), norm()
        self.mixer = Attention(c.dim, c.heads, c.kv_heads, c.head_dim, rope=rope)
        self.mlp = SwiGLU(c.dim, c.hidden)

    def __call__(self, x, mask=None, cache=None):
        x = x + self.mixer(self.mixer_in(x), mask, cache)
        return x + self.mlp(self.mlp_in(x))


def build(c: Config) -> Decoder:
    blocks = [Block(c) for _ in range(c.depth)]
    norm = nn.RMSNorm(c.dim, eps=c.norm_eps)
    return Decoder(c.vocab, c.dim, blocks, norm, tied=c.tied)
