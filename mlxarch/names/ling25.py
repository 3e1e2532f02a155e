"""Names of Ling 2.5 and Ring 2.5. Layers past the last are heads for further tokens, kept under
`mtp`.

Source: inclusionAI/Ling-2.5-1T, its index; mlx-lm, models/bailing_hybrid.py.
"""

from typing import Any

from mlxarch.models.ling25 import Config

from . import latent
from .rules import Beyond, Drop, Rename, Rule, Table


def from_hub(c: Config) -> list[Rule]:
    """The hub's tensors as mlx-lm stores them."""
    layer = "model.layers"
    rules: list[Rule] = [
        Drop(r"\.rotary_emb\.inv_freq$", why="recomputed from rope_theta"),
        Beyond(f"{layer}.{{i}}.{{}}", "mtp.{i}.{}", first=c.depth),
    ]
    if c.tied:
        rules.append(Drop(r"^lm_head\.weight$", why="a copy of the tied embedding"))
    for each in (f"{layer}.{{i}}", "mtp.{i}"):
        rules += latent.experts(each, c.experts)
        rules.append(latent.absorb(f"{each}.attention", c.heads, c.head_dim))
        rules.append(Rename(f"{each}.mlp.gate.weight", f"{each}.mlp.gate.gate_proj.weight"))
    return rules


def table(c: Config) -> Table:
    """mlx-lm's spelling and ours."""
    rules = [
        Rename("model.word_embeddings.{}", "embed.{}"),
        Rename("mtp.{i}.final_layernorm.{}", "mtp.{i}.norm.{}"),
        *latent.head(),
    ]
    for old, new in (("model.layers.{i}", "layers.{i}"), ("mtp.{i}", "mtp.{i}.block")):
        rules += [
            Rename(f"{old}.attention.query_layernorm.{{}}", f"{new}.mixer.q_norm.{{}}"),
            Rename(f"{old}.attention.key_layernorm.{{}}", f"{new}.mixer.k_norm.{{}}"),
            Rename(f"{old}.attention.g_proj.{{}}", f"{new}.mixer.gate_proj.{{}}"),
            Rename(f"{old}.attention.g_norm.{{}}", f"{new}.mixer.norm.{{}}"),
            Rename(f"{old}.attention.dense.{{}}", f"{new}.mixer.o_proj.{{}}"),
            *latent.attention(f"{old}.attention", f"{new}.mixer"),
            Rename(f"{old}.attention.{{}}", f"{new}.mixer.{{}}"),
            Rename(f"{old}.mlp.gate.expert_bias", f"{new}.mlp.router.bias"),
            Rename(f"{old}.mlp.gate.gate_proj.{{}}", f"{new}.mlp.router.gate.{{}}"),
            *latent.block(old, new),
        ]
    return [*rules, Rename("model.norm.{}", "norm.{}"), Rename("lm_head.{}", "head.{}")]


def mlx_keys(c: Config) -> dict[str, Any]:
    """Keys that mlx-lm reads and transformers 5 does not write."""
    return {}
