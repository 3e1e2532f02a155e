"""The vision tower of Qwen 3.5, dense and with experts.

Its patches are of 16 x 16 pixels, and its learned places are blended linearly. A still picture is a
film of two frames that are alike.

Source: transformers, models/qwen3_5/modeling_qwen3_5.py, Qwen3_5VisionModel.
"""

from dataclasses import dataclass

import numpy as np

from mlxarch.config import hub

from . import transformer
from .transformer import Tower, working_bytes

__all__ = ["Config", "build", "working_bytes"]


@dataclass(frozen=True, kw_only=True)
class Config(transformer.Config):
    """The keys of a config.json's vision_config that shape the tower."""

    only = {"deepstack_visual_indexes": [], "hidden_act": "gelu_pytorch_tanh", "in_channels": 3}
    pad = 248_056

    dim: int = hub("hidden_size", default=1152)
    depth: int = hub("depth", default=27)
    heads: int = hub("num_heads", default=16)
    hidden: int = hub("intermediate_size", default=4304)
    patch: int = hub("patch_size", default=16)  # pixels of a side
    frames: int = hub("temporal_patch_size", default=2)
    merged: int = hub("spatial_merge_size", default=2)  # patches of a token's side
    places: int = hub("num_position_embeddings", default=2304)
    out_dim: int = hub("out_hidden_size", default=3584)  # the language model's width
    rope_base: float = hub("rope_parameters.rope_theta", default=10_000.0)


def build(c: Config) -> Tower:
    """An empty tower."""
    return Tower(c, blend)


def blend(count: int, side: int) -> np.ndarray:
    """`count` places of `side` ones (count, side): linearly, first to first and last to last."""
    at = np.arange(count) * (side - 1) / max(count - 1, 1)
    return np.clip(1 - abs(at[:, None] - np.arange(side)), 0, None)
