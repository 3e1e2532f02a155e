"""Names of Step 3.5 Flash. The layers past the last are its heads for further tokens.

Source: stepfun-ai/Step-3.5-Flash, its index; mlx-lm, models/step3p5.py.
"""

from typing import Any

from mlxarch.blocks.rope import kind_of
from mlxarch.models.step35 import Config

from .rules import Beyond, Change, Drop, Rename, Rule, Table, When, has


def from_hub(c: Config) -> list[Rule]:
    """The hub's tensors as mlx-lm stores them, and the heads under `mtp`."""
    layer = "model.layers.{i}"
    shift = Change(r"norm\.weight$", lambda w: w + 1, why="the hub stores norms less one")
    return [
        Drop(r"\.rotary_emb\.inv_freq$", why="recomputed from rope_theta"),
        *([Drop(r"^lm_head\.weight$", why="a copy of the tied embedding")] if c.tied else []),
        When(has(r"^model\.layers\.\d+\.(moe|share_expert|eh_proj)\."), shift),
        Beyond("model.layers.{i}.{}", "mtp.{i}.{}", first=c.depth),
        Rename("mtp.{i}.transformer.shared_head.{}", "mtp.{i}.shared_head.{}"),
        Rename(f"{layer}.moe.gate.{{}}", f"{layer}.mlp.gate.gate.{{}}"),
        Rename(f"{layer}.moe.router_bias", f"{layer}.mlp.gate.router_bias"),
        Rename(f"{layer}.moe.{{}}", f"{layer}.mlp.switch_mlp.{{}}"),
        Rename(f"{layer}.share_expert.{{}}", f"{layer}.mlp.share_expert.{{}}"),
    ]


def table(c: Config) -> Table:
    """mlx-lm's spelling and ours."""
    rules = [
        Rename("model.embed_tokens.{}", "embed.{}"),
        Rename("mtp.{i}.enorm.{}", "mtp.{i}.embed_norm.{}"),
        Rename("mtp.{i}.hnorm.{}", "mtp.{i}.hidden_norm.{}"),
        Rename("mtp.{i}.eh_proj.{}", "mtp.{i}.proj.{}"),
        Rename("mtp.{i}.shared_head.norm.{}", "mtp.{i}.norm.{}"),
        Rename("mtp.{i}.shared_head.output.{}", "mtp.{i}.head.{}"),
    ]
    for old, new in (("model.layers.{i}", "layers.{i}"), ("mtp.{i}", "mtp.{i}.block")):
        rules += [
            Rename(f"{old}.input_layernorm.{{}}", f"{new}.mixer_in.{{}}"),
            Rename(f"{old}.self_attn.g_proj.{{}}", f"{new}.mixer.gate_proj.{{}}"),
            Rename(f"{old}.self_attn.{{}}", f"{new}.mixer.{{}}"),
            Rename(f"{old}.post_attention_layernorm.{{}}", f"{new}.mlp_in.{{}}"),
            Rename(f"{old}.mlp.gate.gate.{{}}", f"{new}.mlp.router.gate.{{}}"),
            Rename(f"{old}.mlp.gate.router_bias", f"{new}.mlp.router.bias"),
            Rename(f"{old}.mlp.switch_mlp.{{}}", f"{new}.mlp.experts.{{}}"),
            Rename(f"{old}.mlp.share_expert.{{}}", f"{new}.mlp.shared.{{}}"),
            Rename(f"{old}.mlp.{{}}", f"{new}.mlp.{{}}"),
        ]
    return [*rules, Rename("model.norm.{}", "norm.{}"), Rename("lm_head.{}", "head.{}")]


def mlx_keys(c: Config) -> dict[str, Any]:
    """Keys that mlx-lm reads and transformers 5 does not write."""
    stretched = {
        kind: turn.scaling
        for kind, turn in zip(c.layer_types, c.rotations, strict=True)
        if kind_of(turn.scaling) != "default"
    }
    return {
        "model_type": "step3p5",
        "rope_scaling": next(iter(stretched.values()), None),
        "yarn_only_types": list(stretched),
        "layer_types": c.layer_types,
        "rope_theta": [turn.base for turn in c.rotations],
        "partial_rotary_factors": [turn.share for turn in c.rotations],
        "swiglu_limits": c.limits,
        "swiglu_limits_shared": c.shared_limits,
        "moe_layers_enum": ",".join(str(i) for i in c.sparse_layers),
        "attention_other_setting": {
            "attention_type": "sliding_attention",
            "num_attention_heads": c.local_heads,
            "num_attention_groups": c.kv_heads,
            "head_dim": c.head_dim,
        },
    }
