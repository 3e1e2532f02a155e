"""How MLX stores numbers of few bits: words of 32 bits, and scales a group of a row.

The words of a row are one stream of bits, lowest first, whatever the number of bits.

Source: mlx, python/src/ops.cpp, `quantize`.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import mlx.core as mx

from mlxarch.errors import FormatError
from mlxarch.names.rules import Shaped

_BITS = (2, 3, 4, 5, 6, 8)
_GROUPS = (128, 64, 32)
# What is absorbed into other tensors, or belongs to a tower that computes in floats.
_FLOATS = re.compile(r"\.kv_b_proj\.|(^|\.)(visual|vision|vision_tower|mm_projector)\.")


@dataclass(frozen=True)
class Layout:
    """One of MLX's layouts."""

    bits: int
    group_size: int
    mode: str = "affine"

    @classmethod
    def affine(cls, bits: int, group: int, columns: int) -> "Layout | None":
        """The one that has scales for `group` numbers in rows of so many, or None."""
        if type(group) is not int:
            return None
        sizes = (size for size in _GROUPS if group % size == 0 and columns % size == 0)
        size = next(sizes, None)
        return None if size is None or bits not in _BITS else cls(bits, size)

    @classmethod
    def named(cls, entry: Mapping[str, Any], path: str) -> "Layout":
        """The one that config.json names for a module.

        Raises: FormatError if MLX has none such: its kernels would divide by a group of 0.
        """
        mode = entry.get("mode") or "affine"
        usual = {layout.mode: layout for layout in (cls(4, 64), MXFP4, MXFP8, NVFP4)}
        if isinstance(mode, str) and (like := usual.get(mode)) is not None:
            said = {key: value for key, value in entry.items() if value is not None}
            bits, size = said.get("bits", like.bits), said.get("group_size", like.group_size)
            affine = mode == "affine" and bits in _BITS and size in _GROUPS
            if (affine or (bits, size) == (like.bits, like.group_size)) and type(size) is int:
                return cls(int(bits), size, mode)
        raise FormatError(
            f"quantization in config.json has {entry.get('bits')!r} bits, groups of "
            f"{entry.get('group_size')!r} and mode {mode!r} for {path}; MLX has no such layout."
        )

    @classmethod
    def found(cls, columns: int, words: int, scales: mx.array) -> "Layout":
        """The one in which a row of so many numbers has so many words, and these scales.

        Raises: ValueError if there is none.
        """
        bits, group = 32 * words / columns, columns / scales.shape[-1]
        known = [MXFP4, MXFP8, NVFP4]
        if scales.dtype != mx.uint8:
            known = [cls(bits, size) for bits in _BITS for size in _GROUPS]
        for layout in known:
            if (layout.bits, layout.group_size) == (bits, group):
                return layout
        raise ValueError(f"{words} words and {scales.shape[-1]} scales for {columns} numbers")

    @property
    def keys(self) -> dict[str, Any]:
        """What config.json says of it."""
        return asdict(self)

    def dequantize(
        self,
        words: mx.array,
        scales: mx.array,
        biases: mx.array | None = None,
        dtype: mx.Dtype = mx.float32,
    ) -> mx.array:
        """The numbers as floats."""
        if biases is not None:
            scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
        return mx.dequantize(words, scales, biases, **self.keys, dtype=dtype)


MXFP4 = Layout(4, 32, "mxfp4")
MXFP8 = Layout(8, 32, "mxfp8")
NVFP4 = Layout(4, 16, "nvfp4")


def unpack(words: mx.array, bits: int) -> mx.array:
    """The whole numbers (..., W * 32 / bits) in words (..., W), as float32."""
    count, rest = words.shape[-1] * 32 // bits, -words.shape[-1] % bits
    words = padded(words.view(mx.uint32), rest)
    ones = mx.ones((*words.shape[:-1], words.shape[-1] // bits))
    return cut(Layout(bits, 32).dequantize(words, ones, mx.zeros_like(ones)), count)


def padded(rows: mx.array, more: int) -> mx.array:
    """Rows with so many zeros behind them."""
    return mx.pad(rows, [(0, 0)] * (rows.ndim - 1) + [(0, more)]) if more else rows


def cut(rows: mx.array, count: int) -> mx.array:
    """The first numbers of rows; all as they are, so that their memory can be used again."""
    return rows if rows.shape[-1] == count else rows[..., :count]


def must_be_float(path: str) -> bool:
    """Whether a module's weight has to be there as floats, however the source has it."""
    return bool(_FLOATS.search(path))


def beside(weights: Mapping[str, Shaped], name: str, of: str) -> str:
    """A name that must be there.

    Raises: FormatError.
    """
    if name not in weights:
        raise FormatError(f"{of} has no {name} beside it.")
    return name


def float_like(scales: mx.array) -> mx.Dtype:
    """The type of what such scales make: their own, or bfloat16 where they are bytes."""
    return mx.bfloat16 if scales.dtype == mx.uint8 else scales.dtype


def stored(name: str, weight: mx.array, dtype: mx.Dtype) -> mx.array:
    """A tensor that must hold this type.

    Raises: FormatError.
    """
    if weight.dtype != dtype:
        found, wanted = (str(each).removeprefix("mlx.core.") for each in (weight.dtype, dtype))
        raise FormatError(f"{name} holds {found}; what config.json says of it wants {wanted}.")
    return weight
