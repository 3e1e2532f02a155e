"""Names of Qwen3-Coder-Next and Qwen3-Next.

Projections of a recurrent layer are fused key head by key head, those of attention query head by
query head; here each stands for itself.

Source: transformers, models/qwen3_next/modeling_qwen3_next.py; mlx-lm, models/qwen3_next.py.
"""

from typing import Any

from mlxarch import config
from mlxarch.models.qwen3_next import Config

from . import qwen
from .rules import Drop, Rename, Rule, Split, Stack, Table


def from_hub(c: Config) -> list[Rule]:
    """The hub's tensors as mlx-lm stores them, and the head under `mtp`."""
    rules: list[Rule] = [
        Drop(r"\.rotary_emb\.inv_freq$", why="recomputed from rope_theta"),
        *([Drop(r"^lm_head\.weight$", why="a copy of the tied embedding")] if c.tied else []),
        *qwen.from_hub(),
    ]
    for mlp in ("model.layers.{i}.mlp", "mtp.{i}.mlp"):
        for part in ("gate_proj", "up_proj", "down_proj"):
            old, new = f"{mlp}.experts.{{e}}.{part}.{{}}", f"{mlp}.switch_mlp.{part}.{{}}"
            rules.append(Stack(old, new, c.experts))
    return rules


def table(c: Config) -> Table:
    """mlx-lm's spelling and ours."""
    each = c.linear_heads // c.linear_key_heads  # value heads to a key head
    keys, values = c.linear_key_dim, each * c.linear_value_dim
    layer, linear, mixer = "model.layers.{i}", "model.layers.{i}.linear_attn", "layers.{i}.mixer"
    return [
        Rename("model.embed_tokens.{}", "embed.{}"),
        *qwen.block(layer, "layers.{i}", heads=c.heads, head_dim=c.head_dim),
        Split(
            f"{linear}.in_proj_qkvz.{{}}",
            (f"{mixer}.in_proj_qkv.{{}}", f"{mixer}.in_proj_z.{{}}"),
            ((keys, keys, values), (values,)),
            groups=c.linear_key_heads,
        ),
        Split(
            f"{linear}.in_proj_ba.{{}}",
            (f"{mixer}.in_proj_b.{{}}", f"{mixer}.in_proj_a.{{}}"),
            ((each,), (each,)),
            groups=c.linear_key_heads,
        ),
        Rename(f"{linear}.{{}}", f"{mixer}.{{}}"),
        *qwen.head(heads=c.heads, head_dim=c.head_dim),
        Rename("model.norm.{}", "norm.{}"),
        Rename("lm_head.{}", "head.{}"),
    ]


def mlx_keys(c: Config) -> dict[str, Any]:
    """Keys that mlx-lm reads and transformers 5 does not write."""
    return {"full_attention_interval": config.period(c.layer_types)}
