"""Every decision of a conversion, made from headers alone; `write` only carries it out.

What is written is the MLX community's format: mlx-lm's names and keys, safetensors shards, and
`quantization` in config.json.

Source: mlx-lm, utils.py, `save_model` and `quantize_model`.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlxarch import checkpoint, registry
from mlxarch.compat import count_parameters
from mlxarch.errors import CheckpointError
from mlxarch.quantize.recipes import Recipe, Schemes
from mlxarch.quantize.scheme import Scheme

from . import card, manifest, safetensors, settings
from .inventory import Inventory
from .safetensors import Part
from .tensors import Tensor, trace

SHARD_BYTES = 1_000_000_000
# Python, MLX, mlx-lm and the pieces being packed, as measured on Linux.
_PROGRAM_BYTES = 400_000_000
# What is known of each of the source's tensors, as measured with the 208,215 of Kimi K2.5.
_TENSOR_BYTES = 2_500


@dataclass(frozen=True)
class Output:
    """One tensor of the output, in one part or, quantized, in three."""

    name: str
    tensor: Tensor  # before it is cast and quantized
    dtype: str  # what it is cast to: "BF16", "F32" ...
    scheme: Scheme | None
    parts: tuple[Part, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Before it is quantized."""
        return self.tensor.shape

    @property
    def stored(self) -> str:
        """How it is read: "BF16", "F32" ..."""
        return safetensors.word(self.tensor.dtype)

    @property
    def bytes_in(self) -> int:
        """What it takes once it is read."""
        return self.tensor.bytes

    @property
    def bytes(self) -> int:
        """What it takes in the output."""
        return sum(part.bytes for part in self.parts)

    @property
    def peak_bytes(self) -> int:
        """What it takes in memory at most: as it is read, made and packed, piece by piece."""
        # Rows are written as they come; scales and biases lie behind them all.
        return self.tensor.peak_bytes + sum(part.bytes for part in self.parts[1:])


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
    def runs(self) -> list[tuple[str, int]]:
        """What its bytes are, for `manifest.Digest`."""
        parts = [part for output in self.outputs for part in output.parts]
        return [("", len(self.header)), *((part.name, part.bytes) for part in parts)]

    @property
    def bytes(self) -> int:
        """The size of the file."""
        return len(self.header) + sum(output.bytes for output in self.outputs)


@dataclass(frozen=True)
class Plan:
    """A conversion that is sure to work if the disk and the source stay as they are."""

    source: Inventory
    architecture: str  # for people
    schemes: Schemes | None  # what the recipe gives each tensor
    parameters: int
    shards: tuple[Shard, ...]
    unquantized: tuple[Output, ...]  # their rows are no multiple of the group size
    config: dict[str, Any]
    readme: str
    options: dict[str, Any]  # what was asked for

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
        """Memory of the process at most: it holds one tensor, or one expert, at a time."""
        known = _PROGRAM_BYTES + _TENSOR_BYTES * len(self.source.tensors)
        return known + max(output.peak_bytes for output in self.outputs)

    @cached_property
    def uses(self) -> tuple[frozenset[Path], ...]:
        """The source's shards that each of the shards is made of."""
        tensors = self.source.tensors
        return tuple(
            frozenset(
                tensors[name].shard for output in shard.outputs for name in output.tensor.sources
            )
            for shard in self.shards
        )

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all that is decided, and of what decides the rest."""
        digest = hashlib.sha256()
        for part in (
            *(shard.file.encode() + shard.header for shard in self.shards),
            json.dumps([self.config, self.readme, dict(self.source.travellers)]).encode(),
            str(manifest.versions()).encode(),
        ):
            digest.update(len(part).to_bytes(8, "little") + part)
        return digest.hexdigest()

    @property
    def job(self) -> str:
        """What makes two runs of a conversion one job: the same plan for an unchanged source."""
        return f"{self.fingerprint} {self.source.revision} {self.source.changed}"


def make(
    source: Inventory,
    *,
    dtype: str | None = None,
    recipe: Recipe | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Plan:
    """Decide everything about a conversion.

    Args:
        dtype: "bfloat16", "float16" or "float32" for all floating tensors; None keeps each one's.
        recipe: What is quantized, and into how many bits; None quantizes nothing.
        shard_bytes: No file is larger, unless a single tensor is.

    Raises:
        ConfigError: config.json is incomplete, or asks for what is not ported.
        CheckpointError: a tensor is missing, left over or misshapen, none can be quantized, or an
            override finds none.
        FormatError: the source is in a format that is not read.
    """
    # What rules compute, such as a norm's weight plus one, is as exact as asked.
    exact = mx.float32 if dtype == "float32" else None
    tensors = trace(source.raw, source.tensors, exact)
    likes = {name: tensor.like for name, tensor in tensors.items()}
    model = checkpoint.assemble(source.raw, likes)
    parameters = count_parameters(model)
    packed = checkpoint.quantization(source.raw, model)
    architecture, schemes = registry.find(source.raw), None
    if recipe:
        floats = trace(source.raw, source.tensors, exact, packed=False) if packed else tensors
        schemes = recipe.fit(architecture, {name: each.shape for name, each in floats.items()})
        tensors = _unpacked(tensors, floats, schemes, packed or {})
    outputs = [_output(name, tensors[name], dtype, schemes) for name in sorted(tensors, key=_order)]
    unquantized = tuple(
        output
        for output in outputs
        if schemes and not output.scheme and schemes.wanted(output.name, output.shape)
    )
    if recipe and not packed and not any(output.scheme for output in outputs):
        raise CheckpointError(
            f"No tensor of {source.name} has rows of a multiple of {recipe.base.group_size}; "
            "choose a smaller --group-size."
        )
    return Plan(
        source=source,
        architecture=architecture.name,
        schemes=schemes,
        parameters=parameters,
        shards=_shards(outputs, shard_bytes),
        unquantized=unquantized,
        config=settings.write(source.raw, outputs, dtype, recipe, packed),
        readme=card.write(source, recipe, dtype),
        options={
            "dtype": dtype,
            "recipe": str(recipe) if recipe else None,
            "shard_bytes": shard_bytes,
        },
    )


def _unpacked(
    tensors: Mapping[str, Tensor],
    floats: Mapping[str, Tensor],
    schemes: Schemes,
    packed: Mapping[str, Any],
) -> dict[str, Tensor]:
    """The tensors, with floats in place of what is packed in another way than is wanted."""
    found = dict(tensors)
    for scales in tensors:
        weight = f"{scales.removesuffix('.scales')}.weight"
        if not scales.endswith(".scales") or weight not in floats:
            continue
        wanted = schemes.scheme(weight, floats[weight].shape)
        if wanted and wanted.entry != settings.layout(packed, weight):
            found[weight] = floats[weight]
            del found[scales]
            found.pop(f"{weight.removesuffix('weight')}biases", None)
    return found


def _output(name: str, tensor: Tensor, dtype: str | None, schemes: Schemes | None) -> Output:
    shape = tensor.shape
    floating = mx.issubdtype(tensor.dtype, mx.floating)
    cast = safetensors.word(getattr(mx, dtype) if dtype and floating else tensor.dtype)
    scheme = schemes.scheme(name, shape) if schemes and floating else None
    if scheme is None:
        return Output(name, tensor, cast, None, (Part(name, cast, shape),))
    path = name.removesuffix("weight")
    columns = shape[-1]
    packed = (*shape[:-1], columns * scheme.bits // 32)
    groups = (*shape[:-1], columns // scheme.group_size)
    parts = [
        Part(f"{path}weight", "U32", packed),
        Part(f"{path}scales", cast if scheme.affine else "U8", groups),
    ]
    if scheme.affine:
        parts.append(Part(f"{path}biases", cast, groups))
    return Output(name, tensor, cast, scheme, tuple(parts))


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
