"""The compressed-tensors format: modules in groups, each with its own scheme.

Source: vllm-project/compressed-tensors, compressors and utils/match.py.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import mlx.core as mx

from mlxarch.errors import FormatError
from mlxarch.names.rules import Rule, Shaped, Step

from .floats import float8, microscaled, nvfp4
from .integers import Integers
from .layout import MXFP4, MXFP8, Layout, beside, padded, stored, unpack

READ = "INT2 to INT8, FP8, MXFP4, MXFP8 and NVFP4"

_FORMATS = (
    "pack-quantized",
    "int-quantized",
    "float-quantized",
    "naive-quantized",
    "mxfp4-pack-quantized",
    "mxfp8-quantized",
    "nvfp4-pack-quantized",
    "mixed-precision",
)


@dataclass(frozen=True)
class Group:
    """A scheme, and the modules that it is for."""

    targets: tuple[str, ...]
    kind: str  # "int" or "float"
    bits: int
    symmetric: bool
    group_size: int  # 0 for a row, a tensor or a block
    block: tuple[int, ...] | None
    microscaled: bool  # scales are exponents

    @classmethod
    def of(cls, config: Mapping[str, Any], format_: str) -> "Group":
        """A group of config.json, in the format of the whole if it has none of its own."""
        weights = config["weights"]
        block = weights.get("block_structure")
        if isinstance(block, str):
            block = [int(size) for size in block.split("x")]
        format_ = config.get("format") or format_
        return cls(
            targets=tuple(config.get("targets") or ()),
            kind=weights.get("type") or "int",
            bits=weights.get("num_bits") or 8,
            symmetric=weights.get("symmetric") is not False,
            group_size=max(0, weights.get("group_size") or 0),
            block=tuple(block) if block else None,
            microscaled=format_.startswith("mx") or weights.get("scale_dtype") == "torch.uint8",
        )

    @property
    def read(self) -> bool:
        """Whether there is a decoder for it."""
        if self.kind == "int":
            return self.bits in (2, 3, 4, 5, 6, 8)
        if self.microscaled:
            return self.symmetric and self.bits in (4, 8) and self.group_size == 32
        return self.symmetric and (self.bits == 8 or (self.bits, self.group_size) == (4, 16))

    @property
    def layout(self) -> Layout | None:
        """How MLX has most of it, or None where it becomes floats."""
        if self.microscaled:
            return MXFP4 if self.bits == 4 else MXFP8
        size = self.group_size or 128
        return Layout.affine(self.bits, size, size) if self.kind == "int" else None

    def rank(self, module: str) -> int:
        """How closely a module is meant: 0 by its name, 1 by a pattern, 2 by its kind, 3 not."""
        ranks = [3]
        for target in self.targets:
            if target.startswith("re:"):
                ranks.append(1 if re.match(target[3:], module) else 3)
            elif "." not in target:
                # A class: only linear layers and their like are quantized.
                ranks.append(2)
            elif target == module:
                ranks.append(0)
        return min(ranks)


@dataclass(frozen=True)
class Compressed(Rule):
    """MLX's tensors, or floats, in place of those that are quantized."""

    groups: tuple[Group, ...]
    packed: bool

    @classmethod
    def of(cls, config: Mapping[str, Any], *, packed: bool) -> "Compressed":
        """The rule for a quantization_config.

        Raises: FormatError for a scheme that is not read.
        """
        format_ = config.get("format") or "dense"
        listed = [g for g in (config.get("config_groups") or {}).values() if g.get("weights")]
        groups = tuple(Group.of(group, format_) for group in listed)
        formats = {format_, *(group.get("format") or format_ for group in listed)}
        ordered = all(
            group["weights"].get("actorder") in (None, False, "weight", "static")
            for group in listed
        )
        if (
            not groups
            or not formats.issubset(_FORMATS)
            or not ordered
            or not all(group.read for group in groups)
        ):
            raise FormatError(
                f"The source is quantized as {_summary(config, listed)}, which is not read; read "
                f"are {READ} with columns in order. Start from one of these, or from the original."
            )
        return cls(groups, packed)

    def steps(self, weights: Mapping[str, Shaped]) -> Iterator[Step]:
        """What the group of a module makes of it."""
        for name in weights:
            path, _, kind = name.rpartition(".")
            if kind == "weight_packed" or (kind == "weight" and f"{name}_scale" in weights):
                yield from self._module(name, f"{path}.", self._group(path), weights)
            elif kind == "weight_shape":
                yield Step(None, (name,))
            elif kind == "weight_g_idx":
                raise FormatError(
                    f"{name} puts columns out of order (actorder); what has them in order is "
                    "read. Start from the original."
                )

    def _group(self, module: str) -> Group:
        group = min(self.groups, key=lambda group: group.rank(module))
        if len(self.groups) > 1 and group.rank(module) == 3:
            raise FormatError(f"{module} is quantized, but no group in config.json has it.")
        return group

    def _module(
        self, name: str, path: str, group: Group, weights: Mapping[str, Shaped]
    ) -> Iterator[Step]:
        scales = beside(weights, f"{path}weight_scale", name)
        if group.kind == "int":
            yield from _integers(name, path, group, weights).steps(packed=self.packed)
        elif group.microscaled:
            layout = MXFP4 if group.bits == 4 else MXFP8
            yield from microscaled(weights, path, (name, scales), layout, packed=self.packed)
        elif group.bits == 4:
            yield nvfp4(weights, path, (name, scales, f"{path}weight_global_scale"), divides=True)
        else:
            block = (1, group.group_size) if group.group_size else group.block
            yield float8(weights, name, scales, block)


def _integers(name: str, path: str, group: Group, weights: Mapping[str, Shaped]) -> Integers:
    bits, (*lead, rows, width) = group.bits, weights[name].shape
    given = tuple(weights[f"{path}weight_scale"].shape)
    # One for a tensor, one a row, or one for each group of a row.
    grid = (*given, *(1,) * (len(lead) + 2 - len(given)))
    per_byte = name.endswith(".weight")
    columns = width if per_byte else width * 32 // bits
    if grid[-1] > 1:
        columns = grid[-1] * group.group_size
    if (
        len(grid) != len(lead) + 2
        or grid[-2] not in (1, rows)
        or width != (columns if per_byte else -(-columns * bits // 32))
        or (per_byte and bits != 8)
    ):
        sizes = f" in groups of {group.group_size}" if group.group_size else ""
        raise FormatError(
            f"{path}weight_scale has shape {list(given)}, which does not suit {name} "
            f"{[*lead, rows, width]} of {bits} bits{sizes}."
        )

    def zeros(packed: mx.array) -> mx.array:
        if packed.dtype == mx.int8:
            return packed.reshape(grid).astype(mx.float32) + (1 << (bits - 1))
        numbers = unpack(mx.contiguous(packed.swapaxes(-1, -2)), bits)
        return numbers[..., :rows].swapaxes(-1, -2)

    zero = f"{path}weight_zero_point"
    return Integers(
        path,
        bits,
        rows,
        columns,
        columns // grid[-1],
        words=((name,), partial(_words_of_bytes if per_byte else _words, name)),
        scales=((f"{path}weight_scale",), lambda scales: scales.reshape(grid)),
        zeros=None if group.symmetric else ((beside(weights, zero, name),), zeros),
    )


def _words(name: str, packed: mx.array) -> mx.array:
    return stored(name, packed, mx.int32).view(mx.uint32)


def _words_of_bytes(name: str, numbers: mx.array) -> mx.array:
    """Bytes that count from -128 as words of bytes that count from 0."""
    numbers = stored(name, numbers, mx.int8).view(mx.uint8) ^ 128
    return padded(numbers, -numbers.shape[-1] % 4).view(mx.uint32)


def _summary(config: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> str:
    keys = ("num_bits", "type", "symmetric", "group_size", "actorder")
    words = [repr(config.get("quant_method"))]
    words += [f"format {config['format']!r}"] if config.get("format") else []
    for group in groups:
        words += [f"{key} {group['weights'][key]!r}" for key in keys if key in group["weights"]]
    return ", ".join(dict.fromkeys(words))
