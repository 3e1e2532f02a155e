"""Names of Kimi K2.5, whose language model lies beside a vision tower, and of Kimi K2 and DeepSeek
V3, whose does not. The tower's tensors are kept under `vision`, further heads under `mtp`.

Source: moonshotai/Kimi-K2.5, its index; mlx-lm, models/deepseek_v3.py and models/kimi_k25.py.
"""

from typing import Any

from mlxarch.models.kimi_k25 import Config

from . import latent
from .rules import Beyond, Change, Drop, Rename, Rule, Table


def _prefix(c: Config) -> str:
    return "language_model." if c.wrapped else ""


def from_hub(c: Config) -> list[Rule]:
    """The hub's tensors as mlx-lm stores them."""
    layer = f"{_prefix(c)}model.layers"
    rules: list[Rule] = [
        Drop(r"\.rotary_emb\.inv_freq$", why="recomputed from rope_theta"),
        Rename("vision_tower.{}", "vision.tower.{}"),
        Rename("mm_projector.{}", "vision.projector.{}"),
        Beyond(f"{layer}.{{i}}.{{}}", "mtp.{i}.{}", first=c.depth),
        Drop(r"^mtp\.\d+\.(embed_tokens|shared_head\.head)\.", why="copies of the model's own"),
    ]
    if c.tied:
        rules.append(Drop(r"\blm_head\.weight$", why="a copy of the tied embedding"))
    for each in (f"{layer}.{{i}}", "mtp.{i}"):
        rules += latent.experts(each, c.experts)
        rules.append(latent.absorb(f"{each}.self_attn", c.heads, c.head_dim))
    return rules


def table(c: Config) -> Table:
    """mlx-lm's spelling and ours."""
    model = f"{_prefix(c)}model"
    return [
        Rename(f"{model}.embed_tokens.{{}}", "embed.{}"),
        *latent.block(f"{model}.layers.{{i}}", "layers.{i}"),
        *latent.head(),
        *latent.block("mtp.{i}", "mtp.{i}.block"),
        Rename(f"{model}.norm.{{}}", "norm.{}"),
        Rename(f"{_prefix(c)}lm_head.{{}}", "head.{}"),
    ]


def tower_from_mlx() -> list[Rule]:
    """The tower's tensors, as `from_hub` leaves them, for `tower`."""
    patches, places = r"^vision\.tower\.patch_embed\.proj\.weight$", r"\.pos_emb\.weight$"
    return [
        Change(patches, lambda w: w.reshape(w.shape[0], -1), why="patches do not overlap"),
        Change(places, lambda w: w.reshape(-1, w.shape[-1]), why="they are looked up by number"),
    ]


def tower() -> Table:
    """The tower's tensors in mlx-lm's spelling and ours."""
    block, ours = "vision.tower.encoder.blocks.{i}", "layers.{i}"
    return [
        Rename("vision.tower.patch_embed.proj.{}", "embed.{}"),
        Rename("vision.tower.patch_embed.pos_emb.{}", "places.{}"),
        Rename(f"{block}.norm0.{{}}", f"{ours}.mixer_in.{{}}"),
        Rename(f"{block}.wqkv.{{}}", f"{ours}.mixer.qkv.{{}}"),
        Rename(f"{block}.wo.{{}}", f"{ours}.mixer.proj.{{}}"),
        Rename(f"{block}.norm1.{{}}", f"{ours}.mlp_in.{{}}"),
        Rename(f"{block}.mlp.fc0.{{}}", f"{ours}.mlp.linear_fc1.{{}}"),
        Rename(f"{block}.mlp.fc1.{{}}", f"{ours}.mlp.linear_fc2.{{}}"),
        Rename("vision.tower.encoder.final_layernorm.{}", "norm.{}"),
        Rename("vision.projector.pre_norm.{}", "merger.norm.{}"),
        Rename("vision.projector.proj.0.{}", "merger.linear_fc1.{}"),
        Rename("vision.projector.proj.2.{}", "merger.linear_fc2.{}"),
    ]


def mlx_keys(c: Config) -> dict[str, Any]:
    """Keys that mlx-lm reads and transformers 5 does not write."""
    return {}
