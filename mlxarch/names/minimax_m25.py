"""Names of MiniMax M2.5: Mixtral's, w1 is the gate, w3 the value, w2 the way out.

Source: MiniMaxAI/MiniMax-M2.5, its index; mlx-lm, models/minimax.py.
"""

from typing import Any

from mlxarch.models.minimax_m25 import Config

from .rules import Drop, Rename, Rule, Stack, Table


def from_hub(c: Config) -> list[Rule]:
    """The hub's tensors as mlx-lm stores them."""
    mlp = "model.layers.{i}.block_sparse_moe"
    parts = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
    return [
        Drop(r"\.rotary_emb\.inv_freq$", why="recomputed from rope_theta"),
        *([Drop(r"^lm_head\.weight$", why="a copy of the tied embedding")] if c.tied else []),
        *(
            Stack(f"{mlp}.experts.{{e}}.{old}.{{}}", f"{mlp}.switch_mlp.{new}.{{}}", c.experts)
            for old, new in parts.items()
        ),
    ]


def table(c: Config) -> Table:
    """mlx-lm's spelling and ours."""
    old, new = "model.layers.{i}.block_sparse_moe", "layers.{i}.mlp"
    return [
        Rename("model.embed_tokens.{}", "embed.{}"),
        Rename("model.layers.{i}.input_layernorm.{}", "layers.{i}.mixer_in.{}"),
        Rename("model.layers.{i}.self_attn.{}", "layers.{i}.mixer.{}"),
        Rename("model.layers.{i}.post_attention_layernorm.{}", "layers.{i}.mlp_in.{}"),
        Rename(f"{old}.e_score_correction_bias", f"{new}.router.bias"),
        Rename(f"{old}.gate.{{}}", f"{new}.router.gate.{{}}"),
        Rename(f"{old}.switch_mlp.{{}}", f"{new}.experts.{{}}"),
        Rename("model.norm.{}", "norm.{}"),
        Rename("lm_head.{}", "head.{}"),
    ]


def mlx_keys(c: Config) -> dict[str, Any]:
    """Keys that mlx-lm reads and transformers 5 does not write."""
    return {}
