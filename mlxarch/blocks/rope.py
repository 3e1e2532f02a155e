"""Rotary position embedding, with the ways of stretching it that the architectures use.

Source: arXiv:2104.09864; yarn, arXiv:2309.00071, section 3; llama3 and all keys, transformers
modeling_rope_utils.py; axes, arXiv:2409.12191, section 2.1, in turns as in transformers,
models/qwen3_5/modeling_qwen3_5.py.   Twins: naive/rope.py, naive/rope_scaling.py.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlxarch.errors import ConfigError

_MOST = 65_536  # features; far more than any head has


class Rope(nn.Module):
    """Rotates the first `dims` features of x by position times a frequency a pair.

    Args:
        interleaved: Pairs are neighbours (2i, 2i + 1); else they are (i, i + dims / 2).
        scaling: config.json's "rope_scaling" or "rope_parameters"; None or "default" for none.
        axes: How many pairs turn by a place's time, row and column, where places have all three:
            one of each in turn, and by time those that are left.

    Raises: ConfigError for a kind of scaling that is not ported, or numbers that make none.
    """

    def __init__(
        self,
        dims: int,
        base: float,
        *,
        interleaved: bool = False,
        scaling: Mapping[str, Any] | None = None,
        axes: Sequence[int] = (),
    ):
        super().__init__()
        if not 1 < base < math.inf:
            raise ConfigError(f"rope_theta is {base!r}; a number above 1 is wanted.")
        if dims < 2 or dims % 2 or dims > _MOST:
            raise ConfigError(
                f"RoPE is to rotate {dims} features; an even number is wanted, up to {_MOST:,}."
            )
        self.dims, self.interleaved = dims, interleaved
        periods = float(base) ** (np.arange(0, dims, 2, dtype=np.float64) / dims)
        kind = kind_of(scaling)
        if scaling is not None and kind == "llama3":
            periods = _llama3(periods, scaling)
        elif scaling is not None and kind == "yarn":
            periods = _yarn(periods, dims, base, scaling)
        elif kind != "default":
            raise ConfigError(f"rope_type is {kind!r}; ported are default, llama3 and yarn.")
        # From numpy, so that it is no lazy array that belongs to one thread.
        self._periods = mx.array(periods.astype(np.float32))
        self.magnitude = magnitude(scaling)
        turns = [(i, i % 3) for i in range(dims // 2)]
        self._axis = [axis if axes and i < 3 * axes[axis] else 0 for i, axis in turns]

    def __call__(self, x: mx.array, offset: int | mx.array = 0) -> mx.array:
        """x (..., L, E), positions offset, offset + 1 ... -> the same shape.

        Or each token's time, row and column: (3, L).
        """
        if isinstance(offset, mx.array) and offset.ndim == 2:
            return self._along(x, offset)
        if self.magnitude != 1.0:
            x = mx.concatenate([x[..., : self.dims] * self.magnitude, x[..., self.dims :]], axis=-1)
        return mx.fast.rope(
            x,
            self.dims,
            traditional=self.interleaved,
            base=None,
            scale=1.0,
            offset=offset,
            freqs=self._periods,
        )

    def _along(self, x: mx.array, places: mx.array) -> mx.array:
        angles = places.T[:, mx.array(self._axis)] / self._periods  # (L, dims / 2)
        cos, sin = mx.cos(angles), mx.sin(angles)
        turned = x[..., : self.dims].astype(mx.float32) * self.magnitude
        a, b = mx.split(turned, 2, axis=-1)
        turned = mx.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
        return mx.concatenate([turned.astype(x.dtype), x[..., self.dims :]], axis=-1)


def kind_of(scaling: Mapping[str, Any] | None) -> str:
    """The kind of scaling under transformers 4's key or 5's."""
    return "default" if not scaling else scaling.get("rope_type") or scaling.get("type", "default")


def magnitude(scaling: Mapping[str, Any] | None) -> float:
    """What yarn multiplies the rotated features by."""
    if scaling is None or kind_of(scaling) != "yarn":
        return 1.0
    if scaling.get("attention_factor") is not None:
        return _number(scaling, "attention_factor")
    factor = _number(scaling, "factor")
    if scaling.get("mscale") and scaling.get("mscale_all_dim"):
        part, whole = _number(scaling, "mscale"), _number(scaling, "mscale_all_dim")
        return _mscale(factor, part) / _mscale(factor, whole)
    return _mscale(factor, 1.0)


def softmax_factor(scaling: Mapping[str, Any] | None) -> float:
    """What latent attention multiplies its softmax scale by under yarn.

    Source: transformers, models/deepseek_v3/modeling_deepseek_v3.py.
    """
    if scaling is None or kind_of(scaling) == "default":
        return 1.0
    if not scaling.get("mscale_all_dim"):
        return 1.0
    return _mscale(_number(scaling, "factor"), _number(scaling, "mscale_all_dim")) ** 2


def _number(scaling: Mapping[str, Any], key: str, default: float | None = None) -> float:
    """A number that must be there, or have a default.

    Raises: ConfigError.
    """
    found = default if scaling.get(key) is None else scaling[key]
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not 0 < found < math.inf:
        raise ConfigError(f"{key} is {found!r} beside rope_type; a number above 0 is wanted.")
    return found


def _mscale(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


def _llama3(periods: np.ndarray, scaling: Mapping[str, Any]) -> np.ndarray:
    """Long waves are stretched, short ones kept, those between blended."""
    keys = ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor")
    factor, original, low, high = (_number(scaling, key) for key in keys)
    if low >= high:
        raise ConfigError(f"low_freq_factor is {low!r}; less than {high!r} is wanted.")
    turns = original / (2 * np.pi * periods)
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return 1 / ((1 - kept) / (factor * periods) + kept / periods)


def _yarn(periods: np.ndarray, dims: int, base: float, scaling: Mapping[str, Any]) -> np.ndarray:
    """The same idea with a ramp over the pairs, by their number."""
    factor = _number(scaling, "factor")
    original = _number(scaling, "original_max_position_embeddings")

    def pair(turns: float) -> float:
        return dims * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(base))

    first = pair(_number(scaling, "beta_fast", 32))
    last = pair(_number(scaling, "beta_slow", 1))
    if scaling.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, dims - 1)
    width = last - first or 0.001
    kept = 1 - np.clip((np.arange(dims // 2) - first) / width, 0, 1)
    return 1 / ((1 - kept) / (factor * periods) + kept / periods)
