"""Names that checkpoints of DeepSeek's kind share: latent attention, experts, further heads."""

from .rules import Absorb, Rename, Rule, Stack

_PARTS = ("gate_proj", "up_proj", "down_proj")


def experts(layer: str, count: int) -> list[Rule]:
    """A layer's experts, one by one on the hub and stacked by mlx-lm."""
    mlp = f"{layer}.mlp"
    return [
        Stack(f"{mlp}.experts.{{e}}.{part}.{{}}", f"{mlp}.switch_mlp.{part}.{{}}", count)
        for part in _PARTS
    ]


def absorb(attention: str, heads: int, key_rows: int) -> Rule:
    """What expands a layer's latents, in the form that attends without expanding them."""
    return Absorb(
        f"{attention}.kv_b_proj.weight",
        f"{attention}.embed_q.weight",
        f"{attention}.unembed_out.weight",
        heads,
        key_rows,
    )


def attention(old: str, new: str) -> list[Rename]:
    """Latent attention in mlx-lm's spelling and ours."""
    return [
        Rename(f"{old}.q_a_layernorm.{{}}", f"{new}.q_a_norm.{{}}"),
        Rename(f"{old}.kv_a_proj_with_mqa.{{}}", f"{new}.kv_a_proj.{{}}"),
        Rename(f"{old}.kv_a_layernorm.{{}}", f"{new}.kv_a_norm.{{}}"),
    ]


def block(old: str, new: str) -> list[Rename]:
    """A block in mlx-lm's spelling and ours."""
    return [
        Rename(f"{old}.input_layernorm.{{}}", f"{new}.mixer_in.{{}}"),
        *attention(f"{old}.self_attn", f"{new}.mixer"),
        Rename(f"{old}.self_attn.{{}}", f"{new}.mixer.{{}}"),
        Rename(f"{old}.post_attention_layernorm.{{}}", f"{new}.mlp_in.{{}}"),
        Rename(f"{old}.mlp.gate.e_score_correction_bias", f"{new}.mlp.router.bias"),
        Rename(f"{old}.mlp.gate.weight", f"{new}.mlp.router.gate.weight"),
        Rename(f"{old}.mlp.switch_mlp.{{}}", f"{new}.mlp.experts.{{}}"),
        Rename(f"{old}.mlp.shared_experts.{{}}", f"{new}.mlp.shared.{{}}"),
        Rename(f"{old}.mlp.{{}}", f"{new}.mlp.{{}}"),
    ]


def head() -> list[Rename]:
    """A head for further tokens, as the hub spells it and ours."""
    return [
        Rename("mtp.{i}.enorm.{}", "mtp.{i}.embed_norm.{}"),
        Rename("mtp.{i}.hnorm.{}", "mtp.{i}.hidden_norm.{}"),
        Rename("mtp.{i}.eh_proj.{}", "mtp.{i}.proj.{}"),
        Rename("mtp.{i}.shared_head.norm.{}", "mtp.{i}.norm.{}"),
    ]
