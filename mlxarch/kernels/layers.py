"""Layers that compute with the CPU's own kernels; their parameters stay MLX's.

Each is the layer it replaces but for its call, which leaves MLX's graph: what it is given is
evaluated, and what it returns is. Few rows are multiplied by packed matrices as they are; for many
these are unpacked, piece by piece, for numpy's BLAS. A call that neither is good for, such as one
in another type than float32 or a small one, is left to MLX.

Shapes: T rows of x   I inputs   O outputs   E experts or heads
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlxarch import compat

from . import blas, cpu, packed, vectors

# Numbers of a matrix from which on it is worth to leave MLX's graph.
LEAST = 1 << 13
# Rows up to which a packed matrix is quicker multiplied as it is than unpacked.
FEW = 48
# Numbers that are unpacked at once: as floats, they stay in the cache of a CPU.
_PIECE = 1 << 20

_FORMS = {
    ("affine", 4): vectors.AFFINE4,
    ("affine", 8): vectors.AFFINE8,
    ("mxfp4", 4): vectors.MXFP4,
}


class Linear(nn.Linear):
    """Dense, by BLAS."""

    def __call__(self, x: mx.array) -> mx.array:
        """x (..., I) -> (..., O)."""
        if not _worthwhile(self, x):
            return super().__call__(x)
        return given(_dense(self, rows(x)), x, self.get("bias"))


class Embedding(nn.Embedding):
    """Dense; as an output head, by BLAS."""

    def as_linear(self, x: mx.array) -> mx.array:
        """x (..., I) -> (..., O)."""
        if not _worthwhile(self, x):
            return super().as_linear(x)
        return given(_dense(self, rows(x)), x)


class QuantizedLinear(nn.QuantizedLinear):
    """Packed."""

    def __call__(self, x: mx.array) -> mx.array:
        """x (..., I) -> (..., O)."""
        if not _worthwhile(self, x):
            return super().__call__(x)
        return given(_Packed(self).times(rows(x)), x, self.get("bias"))


class QuantizedEmbedding(nn.QuantizedEmbedding):
    """Packed; as an output head, multiplied by this."""

    def as_linear(self, x: mx.array) -> mx.array:
        """x (..., I) -> (..., O)."""
        if not _worthwhile(self, x):
            return super().as_linear(x)
        return given(_Packed(self).times(rows(x)), x)


class QuantizedSwitchLinear(compat.QuantizedSwitchLinear):
    """A stack of packed experts, of which only the chosen are looked at."""

    def __call__(self, x: mx.array, indices: mx.array, sorted_indices: bool = False) -> mx.array:
        """x (..., 1, I), indices that its other axes can be broadcast to -> (*indices, 1, O)."""
        if not _worthwhile(self, x, form=True) or x.shape[-2] != 1 or "bias" in self:
            return super().__call__(x, indices, sorted_indices)
        chosen = np.asarray(indices).ravel()
        order = np.argsort(chosen, kind="stable")
        experts, firsts = np.unique(chosen[order], return_index=True)
        bounds = np.append(firsts, len(order))
        segments = np.stack([experts, bounds[:-1], bounds[1:]], axis=1).astype(np.int64)
        each = np.broadcast_to(np.asarray(x)[..., 0, :], (*indices.shape, x.shape[-1]))
        product = _Packed(self).times(each.reshape(len(order), -1)[order], segments)
        out = np.empty_like(product)
        out[order] = product
        return mx.array(out.reshape(*indices.shape, 1, -1))


class QuantizedMultiLinear(compat.QuantizedMultiLinear):
    """A packed matrix for each head."""

    def __call__(self, x: mx.array, transpose: bool = True) -> mx.array:
        """x (B, E or 1, L, I) -> (B, E, L, O); not transposed, it goes from O to I."""
        if not _worthwhile(self, x, form=True):
            return super().__call__(x, transpose)
        B, heads, L, _ = x.shape
        values, stack = np.asarray(x), _Packed(self)
        if not transpose or B * L > FEW or heads == 1:
            return mx.array(stack.times_each(values, transpose))
        ends = np.arange(1, heads + 1) * B * L
        segments = np.stack([np.arange(heads), ends - B * L, ends], axis=1)
        flat = np.ascontiguousarray(values.swapaxes(0, 1)).reshape(heads * B * L, -1)
        out = stack.times(flat, segments).reshape(heads, B, L, -1).swapaxes(0, 1)
        return mx.array(np.ascontiguousarray(out))


class _Packed:
    """The packed matrices of a layer as numpy sees them, one for each expert or head."""

    def __init__(self, layer: Any):
        weight, scales = np.asarray(layer["weight"]), np.asarray(layer["scales"])
        self.layer, self.form = layer, _FORMS.get((layer.mode, layer.bits))
        self.outputs, self.inputs = weight.shape[-2], scales.shape[-1] * layer.group_size
        self.count = weight.shape[0] if weight.ndim == 3 else 1
        biases = layer.get("biases")
        parts = weight, scales, scales if biases is None else np.asarray(biases)
        self.parts = [p.reshape(self.count, self.outputs, -1).view(np.uint8) for p in parts]

    def times(self, x: np.ndarray, segments: np.ndarray | None = None) -> np.ndarray:
        """x (T, I) -> (T, O); each segment is a matrix, its first row and the one after its last.

        Without segments, all rows are for the only matrix.
        """
        segments = np.array([[0, 0, len(x)]]) if segments is None else segments
        out = np.empty((len(x), self.outputs), dtype=np.float32)
        if len(x) > FEW:
            many = segments[:, 2] - segments[:, 1] > FEW
            for matrix, first, last in segments[many].tolist():
                rows = partial(self.unpacked, matrix)
                _multiply(x[first:last], rows, out[first:last])
            segments = segments[~many]
        if len(segments):
            packed.products(self.form, *self.parts, self.layer.group_size, x, segments, out)
        return out

    def times_each(self, x: np.ndarray, transpose: bool) -> np.ndarray:
        """x (B, E or 1, L, I) -> (B, E, L, O), or the other way where not transposed."""
        B, heads, L, _ = x.shape
        width = self.outputs if transpose else self.inputs
        out = np.empty((B, self.count, L, width), dtype=np.float32)

        def one(matrix: int) -> None:
            dense = self.unpacked(matrix)
            dense = dense.T if transpose else dense
            np.matmul(x[:, matrix % heads], dense, out=out[:, matrix])

        blas.each(one, self.count, out.size * self.inputs)
        return out

    def unpacked(self, matrix: int, first: int = 0, last: int | None = None) -> np.ndarray:
        """Rows of a matrix as floats (rows, I)."""
        last = self.outputs if last is None else last
        if self.form is None:
            return np.asarray(self._by_mlx(first, last))
        out = np.empty((last - first, self.inputs), dtype=np.float32)
        cpu.unpack(self.form, *self.parts, self.layer.group_size, matrix, first, out)
        return out

    def _by_mlx(self, first: int, last: int) -> mx.array:
        layer, biases = self.layer, self.layer.get("biases")
        return mx.dequantize(
            layer["weight"][first:last],
            layer["scales"][first:last],
            None if biases is None else biases[first:last],
            group_size=layer.group_size,
            bits=layer.bits,
            mode=layer.mode,
        ).astype(mx.float32)


def _dense(layer: Any, x: np.ndarray) -> np.ndarray:
    """x (T, I) times the matrix of a layer that is not packed -> (T, O)."""
    weight = np.asarray(layer["weight"])
    out = np.empty((len(x), len(weight)), dtype=np.float32)
    _multiply(x, lambda first, last: weight[first:last], out)
    return out


def _multiply(x: np.ndarray, rows: Callable[[int, int], np.ndarray], out: np.ndarray) -> None:
    """x (T, I) times a matrix, of which `rows` gives those from one to before another, into out."""
    (T, inputs), outputs = x.shape, out.shape[1]
    step = max(1, min(_PIECE // inputs, -(-outputs // blas.cores())))

    def piece(i: int) -> None:
        some = slice(i * step, min((i + 1) * step, outputs))
        np.matmul(x, rows(some.start, some.stop).T, out=out[:, some])

    blas.each(piece, -(-outputs // step), T * inputs * outputs)


def _worthwhile(layer: Any, x: mx.array, form: bool = False) -> bool:
    """Whether a call is for the kernels.

    With `form`, only those of formats that the kernels know; else many rows of any.
    """
    weight, scales = layer["weight"], layer.get("scales")
    if x.dtype != mx.float32 or layer.training or not _known(x):
        return False
    if scales is None:
        return weight.dtype == mx.float32 and weight.size >= LEAST
    known = (layer.mode, layer.bits) in _FORMS
    if scales.dtype not in (mx.float32, mx.uint8) or weight.size * 4 < LEAST:
        return False
    return known or (not form and x.size // x.shape[-1] > FEW)


def floats(layer: Any, x: mx.array) -> bool:
    """Whether a layer has float32 to compute with, and nobody wants gradients of it."""
    weight = layer.get("weight")
    stored = weight is None or weight.dtype == mx.float32
    return x.dtype == mx.float32 and stored and not layer.training and _known(x)


def _known(x: mx.array) -> bool:
    """Whether x has numbers, once evaluated: it has none while MLX compiles or maps a function."""
    try:
        mx.eval(x)
    except ValueError:
        return False
    return True


def rows(x: mx.array) -> np.ndarray:
    """x (..., I) -> (T, I)."""
    values = np.ascontiguousarray(np.asarray(x))
    return values.reshape(-1, values.shape[-1])


def given(out: np.ndarray, x: mx.array, bias: mx.array | None = None) -> mx.array:
    """out (T, O) -> (..., O), as x (..., I) was, with a bias."""
    if bias is not None:
        out += np.asarray(bias)
    return mx.array(out.reshape(*x.shape[:-1], -1))
