"""Names of Trinity.

Source: transformers, models/afmoe/modeling_afmoe.py; mlx-lm, models/afmoe.py.
"""

from typing import Any

from mlxarch.models.trinity import Config

from .rules import Drop, Rename, Rule, Stack, Table


def from_hub(c: Config) -> list[Rule]:
    """The hub's tensors as mlx-lm stores them."""
    mlp = "model.layers.{i}.mlp"
    return [
        Drop(r"\.rotary_emb\.inv_freq$", why="recomputed from rope_theta"),
        *([Drop(r"^lm_head\.weight$", why="a copy of the tied embedding")] if c.tied else []),
        *(
            Stack(f"{mlp}.experts.{{e}}.{part}.{{}}", f"{mlp}.experts.{part}.{{}}", c.experts)
            for part in ("gate_proj", "up_proj", "down_proj")
        ),
    ]


def table(c: Config) -> Table:
    """mlx-lm's spelling and ours."""
    return [
        Rename("model.embed_tokens.{}", "embed.{}"),
        Rename("model.layers.{i}.input_layernorm.{}", "layers.{i}.mixer_in.{}"),
        Rename("model.layers.{i}.self_attn.{}", "layers.{i}.mixer.{}"),
        Rename("model.layers.{i}.post_attention_layernorm.{}", "layers.{i}.mixer_out.{}"),
        Rename("model.layers.{i}.pre_mlp_layernorm.{}", "layers.{i}.mlp_in.{}"),
        Rename("model.layers.{i}.post_mlp_layernorm.{}", "layers.{i}.mlp_out.{}"),
        Rename("model.layers.{i}.mlp.expert_bias", "layers.{i}.mlp.router.bias"),
        Rename("model.layers.{i}.mlp.shared_experts.{}", "layers.{i}.mlp.shared.{}"),
        Rename("model.layers.{i}.mlp.{}", "layers.{i}.mlp.{}"),
        Rename("model.norm.{}", "norm.{}"),
        Rename("lm_head.{}", "head.{}"),
    ]


def mlx_keys(c: Config) -> dict[str, Any]:
    """Keys that mlx-lm reads and transformers 5 does not write."""
    return {"topk_group": 1}
