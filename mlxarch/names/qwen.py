"""Names that Qwen3-Next and Qwen 3.5 share: blocks, and the head for a further token."""

from collections.abc import Mapping

from .rules import Change, Rename, Rule, Shaped, Split, When

_NORMS = r"(layernorm|(model|mtp)\.norm|[qk]_norm|pre_fc_norm_\w+)\.weight$"
_PARTS = ("k_proj", "v_proj", "o_proj", "q_norm", "k_norm")


def _is_hub(weights: Mapping[str, Shaped]) -> bool:
    """The hub keeps the taps of a convolution last, mlx-lm in the middle."""
    return any(name.endswith(".conv1d.weight") and w.shape[-1] != 1 for name, w in weights.items())


def from_hub() -> list[Rule]:
    """Norms and convolutions as mlx-lm stores them, and the head under `mtp`."""
    return [
        When(_is_hub, Change(_NORMS, lambda w: w + 1, why="the hub stores norms less one")),
        When(
            _is_hub,
            Change(r"\.conv1d\.weight$", lambda w: w.swapaxes(1, 2), why="taps in the middle"),
        ),
        Rename("mtp.layers.{i}.{}", "mtp.{i}.{}"),
        Rename("mtp.fc.{}", "mtp.0.fc.{}"),
        Rename("mtp.norm.{}", "mtp.0.norm.{}"),
        Rename("mtp.pre_fc_norm_embedding.{}", "mtp.0.pre_fc_norm_embedding.{}"),
        Rename("mtp.pre_fc_norm_hidden.{}", "mtp.0.pre_fc_norm_hidden.{}"),
    ]


def block(old: str, new: str, *, heads: int, head_dim: int) -> list[Rename | Split]:
    """A block of attention in mlx-lm's spelling and ours; queries and gates are one tensor there.

    Attention's tensors are listed, so that what is left of `mixer` is a recurrent layer's.
    """
    mixer = f"{new}.mixer"
    return [
        Rename(f"{old}.input_layernorm.{{}}", f"{new}.mixer_in.{{}}"),
        Split(
            f"{old}.self_attn.q_proj.{{}}",
            (f"{mixer}.q_proj.{{}}", f"{mixer}.gate_proj.{{}}"),
            ((head_dim,), (head_dim,)),
            groups=heads,
        ),
        *(Rename(f"{old}.self_attn.{part}.{{}}", f"{mixer}.{part}.{{}}") for part in _PARTS),
        Rename(f"{old}.post_attention_layernorm.{{}}", f"{new}.mlp_in.{{}}"),
        Rename(f"{old}.mlp.gate.{{}}", f"{new}.mlp.router.gate.{{}}"),
        Rename(f"{old}.mlp.switch_mlp.{{}}", f"{new}.mlp.experts.{{}}"),
        Rename(f"{old}.mlp.shared_expert_gate.{{}}", f"{new}.mlp.shared.gate.{{}}"),
        Rename(f"{old}.mlp.shared_expert.{{}}", f"{new}.mlp.shared.{{}}"),
        Rename(f"{old}.mlp.{{}}", f"{new}.mlp.{{}}"),
    ]


def head(*, heads: int, head_dim: int) -> list[Rename | Split]:
    """The head for a further token, as the hub spells it and ours."""
    return [
        Rename("mtp.{i}.fc.{}", "mtp.{i}.proj.{}"),
        Rename("mtp.{i}.pre_fc_norm_embedding.{}", "mtp.{i}.embed_norm.{}"),
        Rename("mtp.{i}.pre_fc_norm_hidden.{}", "mtp.{i}.hidden_norm.{}"),
        *block("mtp.{i}", "mtp.{i}.block", heads=heads, head_dim=head_dim),
    ]
