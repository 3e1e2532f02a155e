"""What a converted checkpoint's tensors are made of: known before anything is read.

The rules that spell and compute a checkpoint's tensors are followed on shapes alone. So a plan
knows which of the source's tensors, and with them which of its shards, an output needs; and a
stack of experts can be made one expert at a time.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import mlx.core as mx

from mlxarch import checkpoint
from mlxarch.names import rules
from mlxarch.names.rules import Step
from mlxarch.shards import TensorInfo

from .safetensors import READ

Read = Callable[[str], mx.array]


@dataclass(frozen=True)
class Tensor:
    """A tensor and how it is made; `name` is the source's where it is made of nothing else."""

    shape: tuple[int, ...]
    dtype: mx.Dtype
    name: str | None = None
    make: Callable[..., mx.array] = rules.same
    parts: tuple["Tensor", ...] = ()

    @property
    def like(self) -> mx.array:
        """An array of this shape and type that is never computed."""
        return mx.zeros(self.shape, self.dtype)

    @property
    def bytes(self) -> int:
        """What it takes in memory."""
        return prod(self.shape) * self.dtype.size

    @property
    def sources(self) -> Iterator[str]:
        """The source's tensors that it is made of."""
        if self.name is not None:
            yield self.name
        for part in self.parts:
            yield from part.sources

    @property
    def peak_bytes(self) -> int:
        """What it takes in memory while it is made, piece by piece."""
        if self.name is not None:
            return self.bytes
        if self.make is rules.stack:
            return max(part.peak_bytes for part in self.parts)
        # On the way from few bits to floats, or from one packing to another, are wider numbers.
        between = 10 * prod(self.shape) if len(self.parts) > 1 else 0
        if self.dtype == mx.uint32:
            between = 4 * self.bytes
        return sum(part.peak_bytes for part in self.parts) + self.bytes + between

    def array(self, read: Read) -> mx.array:
        """The whole tensor, lazily."""
        if self.name is not None:
            return read(self.name)
        return self.make(*(part.array(read) for part in self.parts))

    def pieces(self, read: Read) -> Iterator[mx.array]:
        """The tensor in runs of its first axis: expert by expert where it is a stack of them."""
        if self.make is not rules.stack:
            yield self.array(read)
            return
        for part in self.parts:
            yield part.array(read)[None]


def trace(
    raw: Mapping[str, Any],
    tensors: Mapping[str, TensorInfo],
    dtype: mx.Dtype | None = None,
    *,
    packed: bool = True,
) -> dict[str, Tensor]:
    """A checkpoint's tensors in the MLX community's spelling, from its headers.

    Args:
        dtype: Read floating tensors as this type, before anything is computed of them.
        packed: Keep numbers of few bits packed; else they become floats.

    Raises: ConfigError, CheckpointError, FormatError.
    """
    leaves = {
        name: Tensor(info.shape, READ[info.dtype], name=name) for name, info in tensors.items()
    }
    return rules.follow(checkpoint.mlx_rules(raw, dtype, packed=packed), leaves, _make)


def _make(step: Step, parts: Sequence[Tensor]) -> Tensor:
    if step.make is rules.same:
        return parts[0]
    like = step.make(*(part.like for part in parts))
    return Tensor(tuple(like.shape), like.dtype, None, step.make, tuple(parts))
