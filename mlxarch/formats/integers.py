"""Whole numbers with scales, and with zeros where they are not symmetric: scale * (number - zero).

Numbers stay as they are packed, in MLX's affine layout, where that has groups of their size;
elsewhere they become floats.

Shapes: numbers (..., M, C), scales and zeros (..., M, G).

Source: mlx, python/src/ops.cpp, `quantize`; for what is not symmetric, arXiv:1712.05877, section 2.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import mlx.core as mx

from mlxarch.names.rules import Step

from .layout import Layout, cut, float_like, must_be_float, unpack

# Names of tensors, and what makes one of them.
Source = tuple[tuple[str, ...], Callable[..., mx.array]]


@dataclass(frozen=True)
class Integers:
    """The weight of a module, and where the parts of it come from."""

    path: str  # of the module, and a dot
    bits: int
    rows: int
    columns: int
    group: int  # numbers to a scale
    words: Source  # (..., M, W): each row a stream of bits, lowest first
    scales: Source  # (..., M or 1, G)
    zeros: Source | None = None  # (..., M or 1, G) as float32; None for half of what bits can say

    def steps(self, *, packed: bool) -> Iterator[Step]:
        """MLX's weight, scales and biases, or floats."""
        words, scales, zeros = self.words[0], self.scales[0], self.zeros[0] if self.zeros else ()
        layout = Layout.affine(self.bits, self.group, self.columns)
        if not packed or layout is None or must_be_float(self.path):
            yield Step(f"{self.path}weight", (*words, *scales, *zeros), self._floats)
            return
        times = self.group // layout.group_size
        yield Step(f"{self.path}weight", words, self.words[1])
        yield Step(
            f"{self.path}scales", scales, lambda *scales: _repeat(self._scales(*scales), times)
        )
        yield Step(
            f"{self.path}biases",
            (*scales, *zeros),
            lambda *parts: _repeat(self._biases(*parts), times),
        )

    def _scales(self, *scales: mx.array) -> mx.array:
        made = self.scales[1](*scales)
        return mx.broadcast_to(made, (*made.shape[:-2], self.rows, made.shape[-1]))

    def _zeros(self, *zeros: mx.array) -> mx.array:
        return self.zeros[1](*zeros) if self.zeros else mx.array(float(1 << (self.bits - 1)))

    def _biases(self, *parts: mx.array) -> mx.array:
        count = len(self.scales[0])
        scales, zeros = self._scales(*parts[:count]), self._zeros(*parts[count:])
        return (-zeros * scales.astype(mx.float32)).astype(scales.dtype)

    def _floats(self, *parts: mx.array) -> mx.array:
        words, rest = parts[: len(self.words[0])], parts[len(self.words[0]) :]
        count = len(self.scales[0])
        scales, zeros = self._scales(*rest[:count]), self._zeros(*rest[count:])
        numbers = cut(unpack(self.words[1](*words), self.bits), self.columns)
        numbers = numbers.reshape(*scales.shape, self.group)
        floats = (numbers - (zeros[..., None] if zeros.ndim else zeros)) * scales[..., None]
        return floats.flatten(-2).astype(float_like(scales))


def _repeat(scales: mx.array, times: int) -> mx.array:
    """Scales (..., G), each for fewer numbers, as (..., G * times)."""
    return mx.repeat(scales, times, axis=-1) if times > 1 else mx.contiguous(scales)
