"""The vision tower of Kimi K2.5, MoonViT-3D, and its projector; for still pictures.

Its patches are of 14 x 14 pixels, and its learned places are blended by cubics. Features that are
rotated together are neighbours, and pairs go by column and by row in turn. The last norm is
followed by that of the projector. In films there is something to tell frames apart, which is 0
where there is only one.

Source: transformers, models/kimi_k25/modeling_kimi_k25.py; moonshotai/Kimi-K2.5, its config.json.
"""

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlxarch.config import hub

from . import transformer
from .transformer import working_bytes

__all__ = ["Config", "build", "working_bytes"]

_A = -0.75  # of the cubics, as torch has them


def _places(raw) -> int:
    sides = (
        raw.get(f"init_pos_emb_{side}", raw.get(f"pos_emb_{side}", 64))
        for side in ("height", "width")
    )
    height, width = sides
    if height != width:
        raise ValueError(f"a grid of {height} x {width} places is no square")
    return height * width


@dataclass(frozen=True, kw_only=True)
class Config(transformer.Config):
    """The keys of a config.json's vision_config that shape the tower, the hub's first."""

    only = {
        "hidden_act": "gelu_pytorch_tanh",
        "merge_kernel_size": [2, 2],
        "merge_type": "sd2_tpool",
        "mm_projector_type": "patchmerger",
        "pos_emb_type": "divided_fixed",
        "projector_hidden_act": "gelu",
        "projector_ln_eps": 1e-5,
    }
    eps = 1e-5
    interleaved = True
    placed = False
    pad = 163_605
    side = 512

    dim: int = hub("vt_hidden_size", "hidden_size", default=1152)
    depth: int = hub("vt_num_hidden_layers", "num_hidden_layers", default=27)
    heads: int = hub("vt_num_attention_heads", "num_attention_heads", default=16)
    hidden: int = hub("vt_intermediate_size", "intermediate_size", default=4304)
    patch: int = hub("patch_size", default=14)
    frames: int = hub(default=1)
    merged: int = hub(default=2)
    places: int = hub(default=_places)
    out_dim: int = hub("text_hidden_size", default=7168)
    rope_base: float = hub("rope_parameters.rope_theta", default=10_000.0)


class Tower(transformer.Tower):
    """Patches of a picture -> rows of the language model's stream."""

    def __init__(self, c: Config):
        super().__init__(c, blend)
        self.norm = nn.LayerNorm(c.dim, eps=c.eps)

    def out(self, x: mx.array) -> mx.array:
        """What the layers leave (n, D) -> (tokens, width)."""
        return super().out(self.norm(x))


def build(c: Config) -> Tower:
    """An empty tower."""
    return Tower(c)


def blend(count: int, side: int) -> np.ndarray:
    """`count` places of `side` ones (count, side): by cubics, from the middles of squares; beyond
    the last one there is more of it.

    Source: torch.nn.functional.interpolate, mode "bicubic", without align_corners.
    """
    at = (np.arange(count) + 0.5) * side / count - 0.5
    found = np.zeros((count, side))
    for step in range(-1, 3):
        near = np.floor(at) + step
        d = abs(at - near)
        inner = ((_A + 2) * d - (_A + 3)) * d**2 + 1
        outer = ((_A * d - 5 * _A) * d + 8 * _A) * d - 4 * _A
        place = np.clip(near, 0, side - 1).astype(int)
        found[np.arange(count), place] += np.where(d <= 1, inner, outer)
    return found
