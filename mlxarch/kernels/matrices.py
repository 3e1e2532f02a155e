"""The matrices of layers as the kernels take them.

Shapes: T rows of x   I inputs   O outputs   E experts or heads
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Self

import mlx.core as mx
import numpy as np

from mlxarch import backend

from . import blas, cpu, crew, packed
from .vectors import FORMS

# Rows up to which a matrix is quicker multiplied as it is than by BLAS, packed and not.
FEW, FEW_FLOATS = 32, 8
UNKNOWN = -1  # a format that only MLX can unpack
# Numbers that are unpacked at once: as floats, they stay in the cache of a CPU.
_PIECE = 1 << 20
_PARTS = "weight", "scales", "biases"


class Matrices:
    """The matrices of some layers with the same inputs and format, one beside another.

    A layer may have a stack of them. They are found anew once a layer has got other arrays; numpy
    holds on to the ones it was given, so that nothing is read that is gone.
    """

    def __init__(self, layers: Sequence[Any]):
        self._source = [(layer, name, layer.get(name)) for layer in layers for name in _PARTS]
        self.layers, first = layers, layers[0]
        known = _, bits, self.group = _format(first)
        self.form = FORMS.index(known) if known in FORMS else UNKNOWN
        self.inputs = first["weight"].shape[-1] * 32 // bits
        self.widths = [layer["weight"].shape[-2] for layer in layers]
        self.width = sum(self.widths)
        self.count = first["weight"].shape[0] if first["weight"].ndim == 3 else 1
        few = FEW if bits < 32 else FEW_FLOATS
        fits = self.form != UNKNOWN and self.inputs % self.group == 0
        # Rows that the kernels multiply; BLAS takes more, and MLX these where the kernels cannot:
        # then what is found for one of few rows does not depend on the others, to the bit.
        self.few, self.foreign = (few, 0) if fits else (0, few)
        self._tables: dict[int, np.ndarray] = {}
        self._bytes = [self._seen(layer) for layer in layers]

    def __reduce__(self):
        """Copies of a layer find their own."""
        return type(None), ()

    @classmethod
    def of(cls, holder: Any, layers: Sequence[Any]) -> Self | None:
        """Those of layers, kept by `holder`; None if they cannot be read, or differ in form."""
        kept = vars(holder).get("_matrices")
        if kept is not None and kept._are_of(layers):
            return kept
        holder._matrices = cls(layers) if _alike(layers) else None
        return holder._matrices

    @classmethod
    def known(cls, holder: Any, layers: Sequence[Any], rows: int = 1 << 30) -> Self | None:
        """Those of layers, if their format is one of vectors.py, and MLX's are not so many rows."""
        found = cls.of(holder, layers)
        ours = found is not None and found.form != UNKNOWN and rows > found.foreign
        return found if ours else None

    def _are_of(self, layers: Sequence[Any]) -> bool:
        same = all(ours is theirs for ours, theirs in zip(self.layers, layers, strict=True))
        return same and all(layer.get(name) is array for layer, name, array in self._source)

    def _seen(self, layer: Any) -> list[np.ndarray]:
        """Weight, scales and biases as bytes (E, O, ...)."""
        # Of an array that is changed in place, an alias stays what it was.
        arrays = [layer.get(name) for name in _PARTS]
        seen = [np.ascontiguousarray(a.reshape(a.shape)) for a in arrays if a is not None]
        seen = [*seen, seen[-1], seen[-1]][:3]
        return [a.reshape(self.count, a.shape[-2], -1).view(np.uint8) for a in seen]

    def table(self, rows: int) -> np.ndarray:
        """The lines for the first matrix of each layer, and so many rows of x."""
        if rows not in self._tables:
            self._tables[rows] = self.lines(np.array([[0, 0, rows]]))
        return self._tables[rows]

    def lines(self, segments: np.ndarray) -> np.ndarray:
        """Lines for segments: a number in the stack, the first row of x and that after the last."""
        matrix, first, last = segments.T
        found, column = [], 0
        for parts, width in zip(self._bytes, self.widths, strict=True):
            places = [crew.address(p) + p.strides[0] * matrix for p in parts]
            sizes = [np.full_like(matrix, p.strides[1]) for p in parts]
            rest = np.full_like(matrix, width), first, last, np.full_like(matrix, column)
            found.append(np.stack([*places, *sizes, *rest], axis=1))
            column += width
        return np.concatenate(found)

    def times(self, x: np.ndarray, segments: np.ndarray | None = None) -> np.ndarray:
        """x (T, I) -> (T, all O); without segments, all rows are for the only matrix."""
        if segments is None and len(x) <= self.few:
            return crew.products(self.form, self.table(len(x)), x, self.width)
        segments = np.array([[0, 0, len(x)]]) if segments is None else segments
        many = segments[:, 2] - segments[:, 1] > self.few
        if many.any():
            out = np.empty((len(x), self.width), np.float32)
            for matrix, first, last in segments[many].tolist():
                self._times_many(matrix, x[first:last], out[first:last])
            for matrix, first, last in segments[~many].tolist():
                lines = self.lines(np.array([[matrix, 0, last - first]]))
                out[first:last] = crew.products(self.form, lines, x[first:last], self.width)
            return out
        return crew.products(self.form, self.lines(segments), x, self.width)

    def _times_many(self, matrix: int, x: np.ndarray, out: np.ndarray) -> None:
        column = 0
        for i, width in enumerate(self.widths):
            rows = partial(self.unpacked, i, matrix)
            _multiply(x, rows, out[:, column : column + width])
            column += width

    def times_each(self, x: np.ndarray, transpose: bool) -> np.ndarray:
        """x (B, E or 1, L, I) -> (B, E, L, O), or the other way where not transposed."""
        B, heads, L, _ = x.shape
        out = np.empty((B, self.count, L, self.width if transpose else self.inputs), np.float32)

        def one(matrix: int) -> None:
            dense = self.unpacked(0, matrix)
            np.matmul(x[:, matrix % heads], dense.T if transpose else dense, out=out[:, matrix])

        blas.each(one, self.count, out.size * self.inputs)
        return out

    def unpacked(
        self, layer: int, matrix: int, first: int = 0, last: int | None = None
    ) -> np.ndarray:
        """Rows of a matrix as floats (rows, I)."""
        last = self.widths[layer] if last is None else last
        parts = self._bytes[layer]
        if self.form == UNKNOWN:
            return np.asarray(_by_mlx(self.layers[layer], first, last))
        if FORMS[self.form][0] == "float":
            return parts[0][matrix, first:last].view(np.float32)
        out = np.empty((last - first, self.inputs), dtype=np.float32)
        cpu.unpack(self.form, *parts, self.group, matrix, first, out)
        return out


def get_ready(layers: Iterable[Any]) -> None:
    """Compile what multiplies by the matrices of layers: else their first product would wait."""
    formats = {_format(layer) for layer in layers if layer.get("weight", mx.array(0)).ndim > 1}
    for known in formats.intersection(FORMS):
        packed.part(FORMS.index(known))


def _format(layer: Any) -> tuple[str, int, int]:
    """How a layer's matrices are packed: mode, bits and group, as in FORMS."""
    mode, bits, group = FORMS[-1]
    return (
        getattr(layer, "mode", mode),
        getattr(layer, "bits", bits),
        getattr(layer, "group_size", group),
    )


def _alike(layers: Sequence[Any]) -> bool:
    """Whether the kernels can read all layers' numbers, as one format."""
    kinds = set()
    for layer in layers:
        weight, scales = layer["weight"], layer.get("scales")
        if (weight if scales is None else scales).dtype not in (mx.float32, mx.uint8):
            return False
        form = [getattr(layer, name, None) for name in ("mode", "bits", "group_size")]
        kinds.add((*form, weight.shape[:-2], weight.shape[-1]))
    return len(kinds) == 1


def _multiply(x: np.ndarray, rows: Callable[[int, int], np.ndarray], out: np.ndarray) -> None:
    """x (T, I) times a matrix, of which `rows` gives those from one to before another, into out."""
    (T, inputs), outputs = x.shape, out.shape[1]
    step = max(1, min(_PIECE // inputs, -(-outputs // backend.cores())))

    def piece(i: int) -> None:
        some = slice(i * step, min((i + 1) * step, outputs))
        np.matmul(x, rows(some.start, some.stop).T, out=out[:, some])

    blas.each(piece, -(-outputs // step), T * inputs * outputs)


def _by_mlx(layer: Any, first: int, last: int) -> mx.array:
    biases = layer.get("biases")
    return mx.dequantize(
        layer["weight"][first:last],
        layer["scales"][first:last],
        None if biases is None else biases[first:last],
        group_size=layer.group_size,
        bits=layer.bits,
        mode=layer.mode,
    ).astype(mx.float32)
