"""Names of GLM-5. The layer past the last is its head for a further token, kept under `mtp`.

Source: zai-org/GLM-5, its index; mlx-lm, models/deepseek_v32.py.
"""

from typing import Any

from mlxarch.models.glm5 import Config

from . import latent
from .rules import Beyond, Drop, Rename, Rule, Table


def from_hub(c: Config) -> list[Rule]:
    """The hub's tensors as mlx-lm stores them."""
    layer = "model.layers"
    rules: list[Rule] = [
        Drop(r"\.rotary_emb\.inv_freq$", why="recomputed from rope_theta"),
        Beyond(f"{layer}.{{i}}.{{}}", "mtp.{i}.{}", first=c.depth),
        Drop(r"^mtp\.\d+\.(embed_tokens|shared_head\.head)\.", why="copies of the model's own"),
    ]
    if c.tied:
        rules.append(Drop(r"^lm_head\.weight$", why="a copy of the tied embedding"))
    for each in (f"{layer}.{{i}}", "mtp.{i}"):
        rules += latent.experts(each, c.experts)
        rules.append(latent.absorb(f"{each}.self_attn", c.heads, c.head_dim))
    return rules


def table(c: Config) -> Table:
    """mlx-lm's spelling and ours."""
    return [
        Rename("model.embed_tokens.{}", "embed.{}"),
        *latent.block("model.layers.{i}", "layers.{i}"),
        *latent.head(),
        *latent.block("mtp.{i}", "mtp.{i}.block"),
        Rename("model.norm.{}", "norm.{}"),
        Rename("lm_head.{}", "head.{}"),
    ]


def mlx_keys(c: Config) -> dict[str, Any]:
    """Keys that mlx-lm reads and transformers 5 does not write."""
    return {
        "rope_parameters": {
            "rope_type": "default",
            **(c.rope_scaling or {}),
            "rope_theta": c.rope_base,
        },
    }
