"""Names of Nanbeige 4.1 and plain Llama; mlx-lm keeps the hub's spelling.

Source: transformers, models/llama/modeling_llama.py; mlx-lm, models/llama.py.
"""

from typing import Any

from mlxarch.models.nanbeige41 import Config

from .rules import Drop, Rename, Rule, Table


def from_hub(c: Config) -> list[Rule]:
    """The hub's tensors as mlx-lm stores them."""
    rules: list[Rule] = [Drop(r"\.rotary_emb\.inv_freq$", why="recomputed from rope_theta")]
    if c.tied:
        rules.append(Drop(r"^lm_head\.weight$", why="a copy of the tied embedding"))
    return rules


def table(c: Config) -> Table:
    """mlx-lm's spelling and ours."""
    return [
        Rename("model.embed_tokens.{}", "embed.{}"),
        Rename("model.layers.{i}.input_layernorm.{}", "layers.{i}.mixer_in.{}"),
        Rename("model.layers.{i}.self_attn.{}", "layers.{i}.mixer.{}"),
        Rename("model.layers.{i}.post_attention_layernorm.{}", "layers.{i}.mlp_in.{}"),
        Rename("model.layers.{i}.mlp.{}", "layers.{i}.mlp.{}"),
        Rename("model.norm.{}", "norm.{}"),
        Rename("lm_head.{}", "head.{}"),
    ]


def mlx_keys(c: Config) -> dict[str, Any]:
    """Keys that mlx-lm reads and transformers 5 does not write."""
    return {}
