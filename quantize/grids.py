"""The values that a group of weights may take in each of MLX's formats, and their packed form.

Affine groups have evenly spaced levels, `scale * code + bias`; the others have the levels of a
small float times a scale of eight bits. What is stored of scale and bias is rounded first, so that
codes are chosen for what will be read.

Shapes: O rows   G columns of a group   C groups of a row

Source: mlx, mlx/backend/cpu/quantized.cpp; OCP Microscaling Formats (MX) 1.0, section 5.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import mlx.core as mx
import numpy as np

from .scheme import Scheme

# Shares of a group's range that are tried: the smallest error is seldom at the whole of it.
_SHARES = np.linspace(1.0, 0.5, 11, dtype=np.float32)
_REFITS = 2


@dataclass(frozen=True)
class Group:
    """How one group of each row is read, `scale * level + bias`: (O, 1) float32, as stored."""

    scale: np.ndarray
    bias: np.ndarray | None  # only of an affine group

    def where(self, rows: np.ndarray, other: "Group") -> "Group":
        """This one where rows (O, 1) say so, the other one else."""
        scale = np.where(rows, self.scale, other.scale)
        if self.bias is None or other.bias is None:
            return Group(scale, None)
        return Group(scale, np.where(rows, self.bias, other.bias))


@dataclass(frozen=True)
class Grid:
    """A scheme's levels; `dtype` is that of an affine group's scales and biases."""

    scheme: Scheme
    dtype: mx.Dtype

    @cached_property
    def levels(self) -> np.ndarray:
        """What codes stand for: 0, 1, 2 ... in an affine group, small floats else."""
        if self.scheme.affine:
            return np.arange(1 << self.scheme.bits, dtype=np.float32)
        return _floats(self.scheme.bits)

    def codes(self, weights: np.ndarray, group: Group) -> np.ndarray:
        """The nearest levels' codes, (O, ...) uint8."""
        scaled = np.where(group.scale == 0, 1, group.scale)
        if group.bias is None:
            return _nearest(weights / scaled, self.scheme.bits)
        top = len(self.levels) - 1
        return np.clip(np.rint((weights - group.bias) / scaled), 0, top).astype(np.uint8)

    def values(self, codes: np.ndarray, group: Group) -> np.ndarray:
        """What codes are read as."""
        values = self.levels[codes] * group.scale
        return values if group.bias is None else values + group.bias

    def fit(self, weights: np.ndarray, importance: np.ndarray) -> Group:
        """What leaves the least error, squared and weighted: weights (O, G), importance (G,)."""
        if not self.scheme.affine:
            return self._best(weights, importance, self._scales(weights))
        low, high = weights.min(1, keepdims=True), weights.max(1, keepdims=True)
        step = (high - low) / (len(self.levels) - 1)
        best = self._best(weights, importance, [self._stored(step * s, low * s) for s in _SHARES])
        weighing = np.diag(importance)
        for _ in range(_REFITS):
            codes = self.codes(weights, best)
            line = self.line(codes, weights * importance, weighing, best)
            best = self._best(weights, importance, [best, line])
        return best

    def line(
        self, codes: np.ndarray, pulled: np.ndarray, square: np.ndarray, group: Group
    ) -> Group:
        """The scale and bias with which given codes come closest to weights w, at the cost
        (value - w) H (value - w)ᵀ.

        Args:
            pulled: w H, (O, G).
            square: H, (G, G).
            group: What it is where all codes are one.
        """
        x = codes.astype(np.float32)
        weighed = x @ square
        xx, x1, one = (weighed * x).sum(1), weighed.sum(1), square.sum()
        wx, w1 = (pulled * x).sum(1), pulled.sum(1)
        spread = xx * one - x1 * x1
        known = spread > 1e-6 * xx * one
        spread, scale, bias = np.where(known, spread, 1), group.scale[:, 0], group.bias
        scale = np.where(known, (wx * one - w1 * x1) / spread, scale)
        bias = (w1 - scale * x1) / one
        return self._stored(scale[:, None], bias[:, None])

    def pack(self, codes: np.ndarray, groups: Sequence[Group]) -> tuple[mx.array, ...]:
        """MLX's arrays: codes (O, C * G) as words, scales and, if it has them, biases (O, C)."""
        bits = np.unpackbits(codes[..., None], axis=-1, count=self.scheme.bits, bitorder="little")
        packed = np.packbits(bits.reshape(codes.shape[0], -1), axis=-1, bitorder="little")
        words = mx.array(packed.view(np.uint32))
        scales = np.concatenate([group.scale for group in groups], axis=1)
        if self.scheme.mode == "nvfp4":
            return words, mx.to_fp8(mx.array(scales))
        if not self.scheme.affine:
            return words, mx.array((np.rint(np.log2(scales)) + 127).astype(np.uint8))
        biases = np.concatenate([g.bias for g in groups if g.bias is not None], axis=1)
        return words, mx.array(scales).astype(self.dtype), mx.array(biases).astype(self.dtype)

    def _best(self, weights: np.ndarray, importance: np.ndarray, tried: Sequence[Group]) -> Group:
        """Row by row, the group of least error."""
        best, least = tried[0], None
        for group in tried:
            error = np.square(self.values(self.codes(weights, group), group) - weights)
            error = (error @ importance)[:, None]
            better = np.full_like(error, True, bool) if least is None else error < least
            least = error if least is None else np.where(better, error, least)
            best = group.where(better, best)
        return best

    def _stored(self, scale: np.ndarray, bias: np.ndarray) -> Group:
        """Rounded to the type in which they are stored."""
        both = mx.array(np.stack([scale, bias]).astype(np.float32)).astype(self.dtype)
        return Group(*np.array(both.astype(mx.float32)))

    def _scales(self, weights: np.ndarray) -> list[Group]:
        """Scales of eight bits near the one that fits the largest weight."""
        fitting = np.abs(weights).max(1, keepdims=True) / self.levels.max()
        if self.scheme.mode == "nvfp4":
            table = _floats(8)[:127]
            near = [np.searchsorted(table, fitting * share) for share in _SHARES]
            return [Group(table[np.clip(found, 0, 126)], None) for found in near]
        exponent = np.ceil(np.log2(np.maximum(fitting, 2.0**-126)))
        return [Group(np.exp2(exponent - e).astype(np.float32), None) for e in (0, 1, 2)]


@lru_cache
def _floats(bits: int) -> np.ndarray:
    """Levels by code: E2M1 of four bits, E4M3 of eight, whose two NaNs are never chosen."""
    if bits == 8:
        codes = mx.arange(256).astype(mx.uint8)
        return np.nan_to_num(np.array(mx.from_fp8(codes, dtype=mx.float32)), nan=0.0)
    half = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=np.float32)
    return np.concatenate([half, -half])


def _nearest(x: np.ndarray, bits: int) -> np.ndarray:
    """Codes of the nearest small floats."""
    positive = _floats(bits)[: 127 if bits == 8 else 8]
    between = (positive[1:] + positive[:-1]) / 2
    codes = np.searchsorted(between, np.abs(x)).astype(np.uint8)
    return codes | (np.signbit(x).astype(np.uint8) << (bits - 1))
