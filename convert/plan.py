"""Every decision of a conversion, made from headers alone; `write` only carries it out.

What is written is the MLX community's format: mlx-lm's names and keys, safetensors shards, and
`quantization` in config.json.

Source: mlx-lm, utils.py, `save_model` and `quantize_model`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import mlx.core as mx

from mlxarch import checkpoint, registry
from mlxarch.compat import count_parameters
from mlxarch.errors import CheckpointError, FormatError
from mlxarch.names.rules import Weights
from mlxarch.quantize.scheme import Scheme, quantizable, scheme_for

from . import card, safetensors, settings
from .inventory import Inventory
from .safetensors import READ, Part

SHARD_BYTES = 1_000_000_000
# Python, MLX, mlx-lm and the pieces being packed, as measured on Linux.
_PROGRAM_BYTES = 300_000_000


@dataclass(frozen=True)
class Output:
    """One tensor of the output, in one part or, quantized, in three."""

    name: str
    shape: tuple[int, ...]  # before it is quantized
    stored: str  # how the source has it: "BF16", "F32" ...
    dtype: str  # what it is cast to
    scheme: Scheme | None
    parts: tuple[Part, ...]

    @property
    def bytes_in(self) -> int:
        """What it takes once it is read."""
        return Part(self.name, self.stored, self.shape).bytes

    @property
    def bytes(self) -> int:
        """What it takes in the output."""
        return sum(part.bytes for part in self.parts)

    @property
    def peak_bytes(self) -> int:
        """What it takes in memory at most: as it is read, cast and packed."""
        cast = Part(self.name, self.dtype, self.shape).bytes
        # A stack of experts is made of tensors that are there at the same time.
        held = [self.bytes_in * (2 if len(self.shape) > 2 else 1)]
        if self.dtype != self.stored:
            held.append(self.bytes_in + cast)
        if self.scheme:
            held.append(cast + self.bytes)
        return max(held)


@dataclass(frozen=True)
class Shard:
    """One file of tensors."""

    file: str
    outputs: tuple[Output, ...]

    @cached_property
    def header(self) -> bytes:
        """What the file begins with."""
        return safetensors.header(part for output in self.outputs for part in output.parts)

    @property
    def bytes(self) -> int:
        """The size of the file."""
        return len(self.header) + sum(output.bytes for output in self.outputs)


@dataclass(frozen=True)
class Plan:
    """A conversion that is sure to work if the disk and the source stay as they are."""

    source: Inventory
    architecture: str  # for people
    scheme: Scheme | None
    parameters: int
    shards: tuple[Shard, ...]
    unquantized: tuple[Output, ...]  # their rows are no multiple of the group size
    config: dict[str, Any]
    readme: str

    @property
    def outputs(self) -> list[Output]:
        """All tensors, in the order in which they are written."""
        return [output for shard in self.shards for output in shard.outputs]

    @property
    def index(self) -> dict[str, Any]:
        """model.safetensors.index.json."""
        model = [shard for shard in self.shards if shard.file.startswith("model")]
        total = sum(output.bytes for shard in model for output in shard.outputs)
        files = {
            part.name: shard.file
            for shard in model
            for output in shard.outputs
            for part in output.parts
        }
        return {
            "metadata": {"total_size": total, "total_parameters": self.parameters},
            "weight_map": dict(sorted(files.items())),
        }

    @property
    def bytes_in(self) -> int:
        """The tensors that are read."""
        return sum(info.bytes for info in self.source.tensors.values())

    @property
    def bytes_out(self) -> int:
        """The shards that are written."""
        return sum(shard.bytes for shard in self.shards)

    @property
    def bits_per_weight(self) -> float:
        """Of the tensors in the output, scales and biases included."""
        return sum(output.bytes for output in self.outputs) * 8 / self.parameters

    @property
    def peak_bytes(self) -> int:
        """Memory of the process at the worst moment: it holds one tensor at a time."""
        return _PROGRAM_BYTES + max(output.peak_bytes for output in self.outputs)


def make(
    source: Inventory,
    *,
    dtype: str | None = None,
    scheme: Scheme | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Plan:
    """Decide everything about a conversion.

    Args:
        dtype: "bfloat16", "float16" or "float32" for all floating tensors; None keeps each one's.
        scheme: Quantize what can be quantized.
        shard_bytes: No file is larger, unless a single tensor is.

    Raises:
        ConfigError: config.json is incomplete, or asks for what is not ported.
        CheckpointError: a tensor is missing, left over or misshapen, or none can be quantized.
        FormatError: the source is quantized already.
    """
    before = source.raw.get("quantization")
    if scheme and isinstance(before, Mapping):
        raise FormatError(
            f"{source.name} is already quantized in {before.get('bits')} bits; "
            "start from the original."
        )
    weights: Weights = {
        name: mx.zeros(info.shape, READ[info.dtype]) for name, info in source.tensors.items()
    }
    parameters = count_parameters(checkpoint.assemble(source.raw, weights))
    weights = checkpoint.as_mlx(source.raw, weights)
    outputs = [_output(name, weights[name], dtype, scheme) for name in sorted(weights, key=_order)]
    unquantized = tuple(
        output
        for output in outputs
        if scheme and not output.scheme and quantizable(output.name, output.shape)
    )
    if scheme and not any(output.scheme for output in outputs):
        raise CheckpointError(
            f"No tensor of {source.name} has rows of a multiple of {scheme.group_size}; "
            "choose a smaller --group-size."
        )
    return Plan(
        source=source,
        architecture=registry.find(source.raw).name,
        scheme=scheme,
        parameters=parameters,
        shards=_shards(outputs, shard_bytes),
        unquantized=unquantized,
        config=settings.write(source.raw, outputs, dtype, scheme),
        readme=card.write(source, scheme, dtype),
    )


def _output(name: str, weight: mx.array, dtype: str | None, wanted: Scheme | None) -> Output:
    stored, shape = safetensors.word(weight.dtype), tuple(weight.shape)
    floating = mx.issubdtype(weight.dtype, mx.floating)
    cast = safetensors.word(getattr(mx, dtype)) if dtype and floating else stored
    scheme = scheme_for(name, shape, wanted) if floating else None
    if scheme is None:
        return Output(name, shape, stored, cast, None, (Part(name, cast, shape),))
    path = name.removesuffix("weight")
    columns = shape[-1]
    packed = (*shape[:-1], columns * scheme.bits // 32)
    groups = (*shape[:-1], columns // scheme.group_size)
    parts = (
        Part(f"{path}weight", "U32", packed),
        Part(f"{path}scales", cast, groups),
        Part(f"{path}biases", cast, groups),
    )
    return Output(name, shape, stored, cast, scheme, parts)


def _order(name: str) -> list[tuple[int, str]]:
    """Layer 2 before layer 10: close to the source's order, and the same for every source."""
    return [
        (int(part), "") if part.isdigit() else (-1, part)
        for part in re.split(r"(\d+)", name)
        if part
    ]


def _shards(outputs: Iterable[Output], limit: int) -> tuple[Shard, ...]:
    """Outputs in files of at most `limit` bytes, their headers included.

    What mlx-lm does not know lies in files that it does not look for.
    """
    outputs, files = list(outputs), []
    for kind in ("model", "mtp", "vision"):
        aside = kind if kind != "model" else None
        own = [output for output in outputs if _aside(output.name) == aside]
        files += _files(kind, own, limit) if own else []
    return tuple(files)


def _aside(name: str) -> str | None:
    """The kind of files that a tensor belongs to which mlx-lm does not know."""
    return next((kind for kind in ("mtp", "vision") if name.startswith(f"{kind}.")), None)


def _files(kind: str, outputs: Iterable[Output], limit: int) -> list[Shard]:
    groups: list[list[Output]] = []
    size = limit + 1
    for output in outputs:
        # A header takes at most 128 bytes a part, and its name.
        bytes_ = output.bytes + sum(128 + len(part.name) for part in output.parts)
        if size + bytes_ > limit:
            groups.append([])
            size = 128
        groups[-1].append(output)
        size += bytes_
    if len(groups) == 1:
        return [Shard(f"{kind}.safetensors", tuple(groups[0]))]
    return [
        Shard(f"{kind}-{i:05d}-of-{len(groups):05d}.safetensors", tuple(group))
        for i, group in enumerate(groups, start=1)
    ]
