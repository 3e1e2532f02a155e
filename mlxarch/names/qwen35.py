"""Names of Qwen 3.5, with or without its vision tower, experts fused or one by one.

The tower's tensors are kept under `vision`, the head for further tokens under `mtp`.

Source: transformers, models/qwen3_5/modeling_qwen3_5.py; mlx-lm, models/qwen3_5.py.
"""

from typing import Any

from mlxarch import config
from mlxarch.models.qwen35 import Config

from . import qwen
from .rules import Change, Drop, Rename, Rule, Split, Stack, Table, When


def from_hub(c: Config) -> list[Rule]:
    """The hub's tensors as mlx-lm stores them."""
    model = "language_model.model"
    rules: list[Rule] = [
        Drop(r"\.rotary_emb\.inv_freq$", why="recomputed from rope_theta"),
        Rename("model.visual.{}", "vision.{}"),
        Rename("vision_tower.{}", "vision.{}"),
        Rename("model.language_model.{}", f"{model}.{{}}"),
        Rename("model.{}", f"{model}.{{}}"),
        Rename("lm_head.{}", "language_model.lm_head.{}"),
        *qwen.from_hub(),
    ]
    if c.tied:
        rules.append(Drop(r"^language_model\.lm_head\.weight$", why="a copy of the embedding"))
    for mlp in (f"{model}.layers.{{i}}.mlp", "mtp.{i}.mlp"):
        gate, up, down = (f"{mlp}.switch_mlp.{part}_proj" for part in ("gate", "up", "down"))
        sizes = ((c.expert_hidden,), (c.expert_hidden,))
        fused, parts = f"{mlp}.experts.gate_up_proj", (f"{gate}.{{}}", f"{up}.{{}}")
        rules += [
            Rename(fused, f"{fused}.weight"),
            Split(f"{fused}.{{}}", parts, sizes),
            Rename(f"{mlp}.experts.down_proj", f"{down}.weight"),
            Rename(f"{mlp}.experts.down_proj.{{}}", f"{down}.{{}}"),
            Stack(f"{mlp}.experts.{{e}}.gate_proj.{{}}", f"{gate}.{{}}", c.experts),
            Stack(f"{mlp}.experts.{{e}}.up_proj.{{}}", f"{up}.{{}}", c.experts),
            Stack(f"{mlp}.experts.{{e}}.down_proj.{{}}", f"{down}.{{}}", c.experts),
        ]
    return rules


def table(c: Config) -> Table:
    """mlx-lm's spelling and ours."""
    model = "language_model.model"
    return [
        Rename(f"{model}.embed_tokens.{{}}", "embed.{}"),
        *qwen.block(f"{model}.layers.{{i}}", "layers.{i}", heads=c.heads, head_dim=c.head_dim),
        Rename(f"{model}.layers.{{i}}.linear_attn.{{}}", "layers.{i}.mixer.{}"),
        *qwen.head(heads=c.heads, head_dim=c.head_dim),
        Rename(f"{model}.norm.{{}}", "norm.{}"),
        Rename("language_model.lm_head.{}", "head.{}"),
    ]


def tower_from_mlx() -> list[Rule]:
    """The tower's tensors, as `from_hub` leaves them, for `tower`."""
    patches = r"^vision\.patch_embed\.proj\.weight$"
    return [
        # The hub has (D, colour, frame, row, column), mlx-vlm the colours last.
        When(
            lambda weights: any(len(w.shape) == 5 and w.shape[-1] == 3 for w in weights.values()),
            Change(patches, lambda w: w.transpose(0, 4, 1, 2, 3), why="colours come first"),
        ),
        Change(patches, lambda w: w.reshape(w.shape[0], -1), why="patches do not overlap"),
    ]


def tower() -> Table:
    """The tower's tensors in mlx-lm's spelling and ours."""
    block, ours = "vision.blocks.{i}", "layers.{i}"
    return [
        Rename("vision.patch_embed.proj.{}", "embed.{}"),
        Rename("vision.pos_embed.{}", "places.{}"),
        Rename(f"{block}.norm1.{{}}", f"{ours}.mixer_in.{{}}"),
        Rename(f"{block}.attn.{{}}", f"{ours}.mixer.{{}}"),
        Rename(f"{block}.norm2.{{}}", f"{ours}.mlp_in.{{}}"),
        Rename(f"{block}.mlp.{{}}", f"{ours}.mlp.{{}}"),
        Rename("vision.merger.{}", "merger.{}"),
    ]


def mlx_keys(c: Config) -> dict[str, Any]:
    """Keys that mlx-lm reads and transformers 5 does not write."""
    keys: dict[str, Any] = {
        "full_attention_interval": config.period(c.layer_types),
        "rope_parameters": {
            "rope_type": "default",
            **c.image_axes,
            **(c.rope_scaling or {}),
            "rope_theta": c.rope_base,
            "partial_rotary_factor": c.rotated,
        },
    }
    if not c.wrapped:
        keys["model_type"] = "qwen3_5_moe" if c.experts else "qwen3_5"
    return keys
