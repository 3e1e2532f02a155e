"""Names of Tiny Aya; mlx-lm keeps the hub's spelling.

Source: transformers, models/cohere2/modeling_cohere2.py; mlx-lm, models/cohere2.py.
"""

from typing import Any

from mlxarch import config
from mlxarch.models.tiny_aya import Config

from .rules import Drop, Rename, Rule, Table


def from_hub(c: Config) -> list[Rule]:
    """The hub's tensors as mlx-lm stores them."""
    return [
        Drop(r"\.rotary_emb\.inv_freq$", why="recomputed from rope_theta"),
        Drop(r"^lm_head\.weight$", why="a copy of the tied embedding"),
    ]


def table(c: Config) -> Table:
    """mlx-lm's spelling and ours."""
    return [
        Rename("model.embed_tokens.{}", "embed.{}"),
        Rename("model.layers.{i}.input_layernorm.{}", "layers.{i}.norm.{}"),
        Rename("model.layers.{i}.self_attn.{}", "layers.{i}.mixer.{}"),
        Rename("model.layers.{i}.mlp.{}", "layers.{i}.mlp.{}"),
        Rename("model.norm.{}", "norm.{}"),
    ]


def mlx_keys(c: Config) -> dict[str, Any]:
    """Keys that mlx-lm reads and transformers 5 does not write."""
    return {"sliding_window_pattern": config.period(c.layer_types)}
