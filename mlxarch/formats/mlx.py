"""MLX's own quantized tensors as floats, for those that must be and for those that are wanted so.

Source: mlx-lm, utils.py, `dequantize_model`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import mlx.core as mx

from mlxarch.errors import FormatError
from mlxarch.names.rules import Rule, Shaped, Step

from .layout import Layout, beside, float_like, must_be_float


@dataclass(frozen=True)
class Dequantize(Rule):
    """Floats in place of weight, scales and biases.

    `quantization` is config.json's: the layout of most, and that of others under their paths.
    """

    quantization: Mapping[str, Any]
    packed: bool

    def steps(self, weights: Mapping[str, Shaped]) -> Iterator[Step]:
        """A float for each module that has scales and that may not stay packed."""
        for scales in weights:
            path = scales.removesuffix("scales")
            if not scales.endswith(".scales") or (self.packed and not must_be_float(path)):
                continue
            weight, layout = beside(weights, f"{path}weight", scales), self._layout(path[:-1])
            biases = [f"{path}biases"] if layout.mode == "affine" else []
            names = (weight, scales, *(beside(weights, name, weight) for name in biases))
            *_, words = weights[weight].shape
            if words * 32 != weights[scales].shape[-1] * layout.group_size * layout.bits:
                raise FormatError(
                    f"{scales} has shape {list(weights[scales].shape)}, which does not suit "
                    f"{weight} {list(weights[weight].shape)} in {layout.keys}."
                )
            yield Step(weight, names, partial(_floats, layout))

    def _layout(self, path: str) -> Layout:
        own = self.quantization.get(path)
        recipe = own if isinstance(own, Mapping) else self.quantization
        return Layout.named(recipe, path)


def _floats(
    layout: Layout, weight: mx.array, scales: mx.array, biases: mx.array | None = None
) -> mx.array:
    return layout.dequantize(weight, scales, biases).astype(float_like(scales))
