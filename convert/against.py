"""A checkpoint's tensors against those of the one it was made from, a few rows at a time.

What is not quantized must be the same numbers. What is quantized must be as near as its manifest
says, or, without one, not much further than rounding to nearest would be: methods that look at what
a model computes move a weight further than rounding does, so that its outputs move less.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import mlx.core as mx
import numpy as np

from mlxarch import checkpoint, formats
from mlxarch.errors import CheckpointError
from mlxarch.files import open_file
from mlxarch.quantize.pack import dequantize, pack
from mlxarch.quantize.scheme import Scheme
from mlxarch.shards import TensorInfo

from .manifest import TensorEntry
from .safetensors import READ
from .tensors import Tensor, trace

# Numbers that are compared at once: float32 copies of them are needed.
_PIECE = 4 << 20
# Sums are rounded otherwise on another device.
_SLACK, _TINY = 1.01, 1e-6
# Without a manifest: so many times what rounding to nearest costs, and never a tensor of which
# nothing is left.
_GENEROUS, _NOTHING_LEFT = 3.0, 0.9
_PARTS = ("weight", "scales", "biases")


@dataclass(frozen=True)
class Compared:
    """A tensor beside its source."""

    name: str
    scheme: Scheme | None  # None if it is not quantized
    relative_error: float  # ‖it - source‖ / ‖source‖; infinite if it holds NaN
    limit: float  # 0 where it must be the same


class Side:
    """A checkpoint in the MLX community's spelling, whose rows are read when they are needed.

    Raises: ConfigError, CheckpointError, FormatError.
    """

    def __init__(
        self,
        raw: Mapping[str, Any],
        infos: Mapping[str, TensorInfo],
        dtype: mx.Dtype | None = None,
    ):
        self._infos = infos
        self._parts = trace(raw, infos, dtype)
        self._floats = trace(raw, infos, dtype, packed=False)
        model = checkpoint.assemble(raw, {name: part.like for name, part in self._parts.items()})
        self._packed = checkpoint.quantization(raw, model) or {}
        self.names = sorted(self._floats)

    def scheme(self, name: str) -> Scheme | None:
        """How a tensor is packed; None if it is not."""
        path = name.removesuffix(".weight")
        if path == name or f"{path}.scales" not in self._parts:
            return None
        own = self._packed.get(path)
        entry = own if isinstance(own, Mapping) else self._packed
        return Scheme(**formats.Layout.named(entry, path).keys)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of the numbers that a tensor stands for."""
        return tuple(self._floats[name].shape)

    def dtype(self, name: str) -> mx.Dtype | None:
        """The type of its numbers, or of its scales; None where scales have 8 bits."""
        if (scheme := self.scheme(name)) is None:
            return self._parts[name].dtype
        return self._parts[f"{name.removesuffix('weight')}scales"].dtype if scheme.affine else None

    def stored(self, name: str, first: int) -> Iterator[list[mx.array]]:
        """What a tensor is stored in, its parts (rows, columns), at most `first` rows at once."""
        path = name.removesuffix("weight")
        ends = _PARTS if self.scheme(name) else ()
        names = [f"{path}{end}" for end in ends if f"{path}{end}" in self._parts]
        return self._rows([self._parts[part] for part in names or [name]], first)

    def floats(self, name: str, first: int) -> Iterator[list[mx.array]]:
        """The numbers (rows, columns) that a tensor stands for, at most `first` rows at once."""
        return self._rows([self._floats[name]], first)

    def _rows(self, parts: list[Tensor], first: int) -> Iterator[list[mx.array]]:
        if all(part.name is not None for part in parts):
            total = math.prod(parts[0].shape[:-1])
            for start in range(0, total, first):
                stop = min(total, start + first)
                yield [self._read(part, start, stop) for part in parts]
            return
        # Expert by expert, where it is a stack of them.
        for pieces in zip(*(part.pieces(self._whole) for part in parts), strict=True):
            flat = [p.reshape(-1, p.shape[-1]) if p.ndim else p.reshape(1, 1) for p in pieces]
            mx.eval(flat)
            for start in range(0, flat[0].shape[0], first):
                yield [piece[start : start + first] for piece in flat]

    def _whole(self, name: str) -> mx.array:
        """A tensor of a file, and nothing else of it."""
        info = self._infos[name]
        leaf = Tensor(info.shape, READ[info.dtype], name=name)
        return self._read(leaf, 0, math.prod(info.shape[:-1])).reshape(info.shape)

    def _read(self, part: Tensor, start: int, stop: int) -> mx.array:
        """Rows of a tensor as its file has them."""
        info = self._infos[cast(str, part.name)]
        columns = info.shape[-1] if info.shape else 1
        stride = columns * READ[info.dtype].size
        with open_file(info.shard) as file:
            file.seek(info.start + start * stride)
            content = file.read((stop - start) * stride)
        if len(content) != (stop - start) * stride:
            raise CheckpointError(f"{info.shard} became shorter while it was read; start again.")
        array = mx.array(np.frombuffer(content, np.uint8))
        return array.view(READ[info.dtype]).reshape(stop - start, columns)


def compare(
    name: str, out: Side, source: Side, entry: TensorEntry | None, threshold: float | None
) -> Compared:
    """One tensor of both sides.

    Args:
        entry: What the manifest says of it.
        threshold: The largest relative error of a quantized tensor, whatever the manifest says.

    Raises: CheckpointError if they are not of one shape, or not both numbers; FormatError.
    """
    shape, scheme = out.shape(name), out.scheme(name)
    if shape != (theirs := source.shape(name)):
        raise CheckpointError(f"it has shape {list(shape)}, and {list(theirs)} in the source.")
    if scheme == source.scheme(name):
        # Both plain, or the source's own bits passed through.
        return Compared(name, scheme, _distance_same(name, out, source), 0.0)
    recorded = entry.relative_error if entry else None
    lost = norm = rounded = 0.0
    for kept, exact in _dense(name, out, source):
        sums = mx.stack([(exact - kept).square().sum(), exact.square().sum()])
        more_lost, more_norm = cast(list[float], sums.tolist())
        lost, norm = lost + more_lost, norm + more_norm
        if scheme is not None and recorded is None and threshold is None:
            rounded += pack(exact.astype(out.dtype(name) or mx.float32), scheme).lost
    if scheme is None:
        limit = 0.0
    elif threshold is not None:
        limit = threshold
    elif recorded is not None:
        limit = _SLACK * recorded + _TINY
    else:
        limit = min(_GENEROUS * _relative(rounded, norm), _NOTHING_LEFT) + _TINY
    return Compared(name, scheme, _relative(lost, norm), limit)


def _dense(name: str, out: Side, source: Side) -> Iterator[tuple[mx.array, mx.array]]:
    """Rows of both sides as float32; the source's are cast first to what is written."""
    scheme, dtype, first = out.scheme(name), out.dtype(name), _first(out.shape(name))
    for kept, (exact,) in _pairs(out.stored(name, first), source.floats(name, first)):
        yield (
            kept[0].astype(mx.float32) if scheme is None else dequantize(kept, scheme),
            (exact.astype(dtype) if dtype else exact).astype(mx.float32),
        )


def _distance_same(name: str, out: Side, source: Side) -> float:
    """The distance of what should be the same: 0.0, and no rounding, where it is."""
    lost, norm, first = 0.0, 0.0, _first(out.shape(name))
    for ours, theirs in _pairs(out.stored(name, first), source.stored(name, first)):
        for a, b in zip(ours, theirs, strict=True):
            wanted = b.astype(a.dtype)
            exact = wanted.astype(mx.float32)
            if not bool(mx.array_equal(a, wanted, equal_nan=True)):
                lost += float((a.astype(mx.float32) - exact).square().sum()) or _TINY
            norm += float(exact.square().sum())
    return _relative(lost, norm)


def _first(shape: tuple[int, ...]) -> int:
    """How many rows are compared at once."""
    return max(1, _PIECE // max(1, shape[-1])) if shape else 1


def _pairs(
    ours: Iterator[list[mx.array]], theirs: Iterator[list[mx.array]]
) -> Iterator[tuple[list[mx.array], list[mx.array]]]:
    """The same rows of both sides."""
    left, right = _Rows(ours), _Rows(theirs)
    while rows := min(left.ahead(), right.ahead()):
        yield left.take(rows), right.take(rows)


def _relative(lost: float, norm: float) -> float:
    if not lost:
        return 0.0
    error = math.sqrt(lost / norm) if norm else math.inf
    return error if math.isfinite(error) else math.inf


class _Rows:
    """Rows that come in runs, taken so many at a time."""

    def __init__(self, runs: Iterator[list[mx.array]]):
        self._runs, self._now = runs, cast(list[mx.array], [])

    def ahead(self) -> int:
        """How many are left of the run; 0 after the last."""
        while not self._now or not self._now[0].shape[0]:
            following = next(self._runs, None)
            if following is None:
                return 0
            self._now = following
        return self._now[0].shape[0]

    def take(self, count: int) -> list[mx.array]:
        """The next rows of each part."""
        taken, self._now = [a[:count] for a in self._now], [a[count:] for a in self._now]
        return taken
