"""Names of Kimi K2.5, whose language model lies beside a vision tower, and of Kimi K2 and DeepSeek
V3, whose does not. The tower's tensors are kept under `vision`, further heads under `mtp`.

Source: moonshotai/Kimi-K2.5, its index; mlx-lm, models/deepseek_v3.py and models/kimi_k25.py.
"""

from typing import Any

from mlxarch.models.kimi_k25 import Config

from . import latent
from .rules import Beyond, Drop, Rename, Rule, Table


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


def mlx_keys(c: Config) -> dict[str, Any]:
    """Keys that mlx-lm reads and transformers 5 does not write."""
    return {}
