"""Floats of eight and four bits with scales: what MLX has is kept, the rest becomes bfloat16.

Shapes: a weight is (..., M, C), with the experts of a stack in front. A scale is for a block of
it: of a given size, a row, or the whole.

Source: block-wise FP8, arXiv:2412.19437, section 3.3; OCP Microscaling Formats (MX) 1.0; NVFP4,
vllm-project/compressed-tensors, compressors/nvfp4, and NVIDIA/Model-Optimizer; openai/gpt-oss for
its blocks of MXFP4.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

import mlx.core as mx

from mlxarch.errors import FormatError
from mlxarch.names.rules import Rule, Shaped, Step

from .layout import MXFP4, MXFP8, Layout, beside, must_be_float, stored

# What four bits stand for: a sign, two bits of exponent, one of fraction.
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
_SCALES = ("_scale_inv", "_scale")


@dataclass(frozen=True)
class Float8(Rule):
    """FP8 (E4M3) with a scale a block, a row or a tensor, as bfloat16."""

    block: tuple[int, int] | None = None  # rows, columns

    @classmethod
    def of(cls, block: Sequence[int] | None) -> "Float8":
        """The rule for what config.json says of blocks.

        Raises: ValueError, TypeError.
        """
        if not block:
            return cls()
        rows, columns = map(int, block)
        if min(rows, columns) < 1:
            raise ValueError(f"blocks of {list(block)}")
        return cls((rows, columns))

    def steps(self, weights: Mapping[str, Shaped]) -> Iterator[Step]:
        """A float for each tensor that has scales beside it."""
        for name in weights:
            if (scales := scales_of(weights, name)) is not None:
                yield float8(weights, name, scales, self.block)


def scales_of(weights: Mapping[str, Shaped], name: str) -> str | None:
    """The name of a tensor's scales, or None if it has none."""
    return next((name + end for end in _SCALES if name + end in weights), None)


def float8(
    weights: Mapping[str, Shaped], name: str, scales: str, block: Sequence[int] | None
) -> Step:
    """The step that makes bfloat16 of FP8. A scale of bytes is a power of two (E8M0).

    Raises: FormatError if the scales do not cover the weight.
    """
    shape, given = tuple(weights[name].shape), tuple(weights[scales].shape)
    grid = given + (1,) * (len(shape) - len(given))
    spans = tuple(map(_span, shape[-2:], grid[-2:], block or (0, 0)))
    stacked = len(grid) == len(shape) and grid[:-2] in (shape[:-2], (1,) * len(shape[:-2]))
    if len(shape) < 2 or 0 in spans or not stacked:
        blocks = f"blocks of {list(block)}" if block else "rows or tensors as blocks"
        raise FormatError(
            f"{scales} has shape {list(given)}; {blocks} do not make {list(shape)} of it."
        )
    return Step(name, (name, scales), partial(_from_float8, name, grid, spans))


def _span(length: int, scales: int, block: int) -> int:
    """How many numbers along an axis share a scale: a block's, all, one; 0 if none of these."""
    if block and -(-length // block) == scales:
        return block
    return {length: 1, 1: length}.get(scales, 0)


def _from_float8(
    name: str, grid: Sequence[int], spans: Sequence[int], weight: mx.array, scales: mx.array
) -> mx.array:
    stored(name, weight, mx.uint8)
    *lead, rows, columns = weight.shape
    *stack, down, along = grid
    tall, wide = down * spans[0], along * spans[1]
    if (tall, wide) != (rows, columns):
        weight = mx.pad(weight, [(0, 0)] * len(lead) + [(0, tall - rows), (0, wide - columns)])
    if scales.dtype == mx.uint8:
        # Exponents alone, and these lie where float32 has its own.
        scales = (scales.astype(mx.uint32) << 23).view(mx.float32)
    values = mx.from_fp8(weight, dtype=mx.float32).reshape(*lead, down, spans[0], along, spans[1])
    values = values * scales.astype(mx.float32).reshape(*stack, down, 1, along, 1)
    return values.astype(mx.bfloat16).reshape(*lead, tall, wide)[..., :rows, :columns]


def _words(name: str, weight: mx.array) -> mx.array:
    """Bytes (..., B) as MLX's words."""
    return stored(name, weight, mx.uint8).view(mx.uint32)


def microscaled(
    weights: Mapping[str, Shaped],
    path: str,
    names: tuple[str, str],
    layout: Layout,
    *,
    packed: bool,
) -> Iterator[Step]:
    """The steps that make MLX's MXFP4 or MXFP8 of bytes and their scales, or bfloat16.

    Raises: FormatError if there is not a scale for every 32 numbers.
    """
    weight, scales = names
    shape, given = tuple(weights[weight].shape), tuple(weights[scales].shape)
    # Blocks of 16 bytes have an axis of their own.
    blocks = shape == (*given, 16) and layout.bits == 4
    if not blocks and shape != (*given[:-1], given[-1] * 4 * layout.bits):
        raise FormatError(
            f"{scales} has shape {list(given)}; {weight} {list(shape)} wants a scale for every "
            f"{4 * layout.bits} bytes."
        )

    def words(weight: mx.array) -> mx.array:
        return _words(names[0], weight.flatten(-2) if blocks else weight)

    def floats(weight: mx.array, scales: mx.array) -> mx.array:
        # Exact: one has at most three bits of fraction, the other none.
        return layout.dequantize(words(weight), scales, dtype=mx.bfloat16)

    if packed and not must_be_float(path):
        yield Step(f"{path}weight", (weight,), words)
        yield Step(f"{path}scales", (scales,))
    else:
        yield Step(f"{path}weight", names, floats)


@dataclass(frozen=True)
class Blocks(Rule):
    """MXFP4 as blocks (..., G, 16) of pairs and scales (..., G); MLX has rows of words."""

    packed: bool

    def steps(self, weights: Mapping[str, Shaped]) -> Iterator[Step]:
        """MLX's tensors in place of `_blocks` and `_scales`."""
        for name in weights:
            if not name.endswith("_blocks"):
                continue
            base = name.removesuffix("_blocks")
            scales = beside(weights, f"{base}_scales", name)
            path = f"{base.removesuffix('.weight')}."
            yield from microscaled(weights, path, (name, scales), MXFP4, packed=self.packed)


@dataclass(frozen=True)
class Mxfp8(Rule):
    """MXFP8: FP8 (E4M3) with a power of two for every 32 numbers of a row."""

    packed: bool

    def steps(self, weights: Mapping[str, Shaped]) -> Iterator[Step]:
        """MLX's tensors in place of weights that have scales beside them."""
        for name in weights:
            if name.endswith(".weight") and (scales := scales_of(weights, name)) is not None:
                path = name.removesuffix("weight")
                yield from microscaled(weights, path, (name, scales), MXFP8, packed=self.packed)


@dataclass(frozen=True)
class Nvfp4(Rule):
    """NVFP4 as ModelOpt stores it: pairs, scales of 16 numbers, and `weight_scale_2` of them."""

    def steps(self, weights: Mapping[str, Shaped]) -> Iterator[Step]:
        """bfloat16 in place of the three."""
        for scale in weights:
            if scale.endswith("weight_scale_2"):
                path = scale.removesuffix("weight_scale_2")
                weight = beside(weights, f"{path}weight", scale)
                yield nvfp4(weights, path, (weight, f"{path}weight_scale", scale), divides=False)


def nvfp4(
    weights: Mapping[str, Shaped], path: str, names: tuple[str, str, str], *, divides: bool
) -> Step:
    """The step that makes bfloat16 of pairs (..., C / 2), scales (..., C / 16) and a tensor's own.

    MLX's layers have no place for the scale of a whole tensor, and no type of eight bits holds its
    products with the others.

    Args:
        divides: Whether values are divided by the tensor's scale, as compressed-tensors has it.

    Raises: FormatError if one is missing or misshapen.
    """
    weight, groups, scale = (beside(weights, name, names[0]) for name in names)
    *lead, width = weights[weight].shape
    if tuple(weights[groups].shape) != (*lead, width // 8) or width % 8:
        raise FormatError(
            f"{groups} has shape {list(weights[groups].shape)}; "
            f"{weight} {[*lead, width]} wants a scale for every 8 bytes."
        )
    if prod(weights[scale].shape) not in (1, prod(lead[:-1])):
        raise FormatError(f"{scale} has shape {list(weights[scale].shape)}; one number is wanted.")
    return Step(f"{path}weight", (weight, groups, scale), partial(_from_nvfp4, weight, divides))


def _from_nvfp4(
    name: str, divides: bool, weight: mx.array, groups: mx.array, scale: mx.array
) -> mx.array:
    pairs = mx.unflatten(stored(name, weight, mx.uint8), -1, (-1, 8))
    codes = mx.stack([pairs & 15, pairs >> 4], axis=-1).flatten(-2)
    values = mx.array(_E2M1)[codes] * mx.from_fp8(groups, dtype=mx.float32)[..., None]
    stack = weight.shape[:-2] if scale.size > 1 else (1,) * (weight.ndim - 2)
    scale = scale.astype(mx.float32).reshape(*stack, 1, 1, 1)
    values = values / scale if divides else values * scale
    return values.astype(mx.bfloat16).flatten(-2)
