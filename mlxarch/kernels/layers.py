"""Layers that compute with the CPU's own kernels; their parameters stay MLX's.

Each is the layer it replaces but for its call, which takes and gives numpy's arrays as well as
MLX's. Given MLX's, it leaves MLX's graph: what it is given is evaluated, and what it returns is. A
call that the kernels are not good for, such as one in another type than float32, is left to MLX.
Who wants gradients says `model.train()` first, as always.

Shapes: T rows of x   I inputs   O outputs   E experts or heads
"""

from collections.abc import Sequence
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlxarch import compat

from .matrices import Matrices

# Numbers of a matrix from which on it is worth to leave MLX's graph.
LEAST = 1 << 13


class Quick:
    """What all such layers share; `numbers` is their call on numpy's arrays."""

    def __call__(self, x: Any, *rest: Any, **more: Any) -> Any:
        """As the layer that this one is in the place of, or on numpy's arrays."""
        if isinstance(x, np.ndarray):
            return self.numbers(x, *rest, **more)
        if not self.suits(x):
            return cast(Any, super()).__call__(x, *rest, **more)
        return mx.array(self.numbers(np.asarray(x), *rest, **more))

    def numbers(self, x: np.ndarray, *rest: Any, **more: Any) -> np.ndarray:
        """MLX's call, on numpy's arrays."""
        return np.asarray(cast(Any, super()).__call__(mx.array(x), *rest, **more))

    def suits(self, x: mx.array) -> bool:
        """Whether a call is for the kernels."""
        return floats(self, x)


class _Product(Quick):
    """A layer that multiplies by one matrix."""

    def numbers(self, x: np.ndarray) -> np.ndarray:
        """x (..., I) -> (..., O)."""
        out, bias = _times(self, x), getattr(self, "bias", None)
        if out is None:
            return super().numbers(x)
        return out if bias is None else out + np.asarray(bias)

    def suits(self, x: mx.array) -> bool:
        """Whether a call is for the kernels."""
        return _worthwhile(self, x)


class Linear(_Product, nn.Linear):
    """Dense."""


class QuantizedLinear(_Product, nn.QuantizedLinear):
    """Packed."""


class _Rows(Quick):
    """A layer that gives rows of one matrix; also an output head."""

    def numbers(self, x: np.ndarray) -> np.ndarray:
        """Tokens (T,) -> (T, O)."""
        matrices = Matrices.of(self, (self,))
        if matrices is None:
            return super().numbers(x)
        return np.concatenate([matrices.unpacked(0, 0, t, t + 1) for t in x.tolist()])

    def suits(self, x: mx.array) -> bool:
        """Whether a call is for the kernels: not while tokens are still in MLX's graph."""
        return False

    def as_linear(self, x: mx.array) -> mx.array:
        """x (..., I) -> (..., O)."""
        out = _times(self, np.asarray(x)) if _worthwhile(self, x) else None
        return cast(Any, super()).as_linear(x) if out is None else mx.array(out)


class Embedding(_Rows, nn.Embedding):
    """Dense."""


class QuantizedEmbedding(_Rows, nn.QuantizedEmbedding):
    """Packed."""


class Chosen:
    """A stack of experts, of which only the chosen are looked at."""

    def __call__(self, x: mx.array, indices: mx.array, sorted_indices: bool = False) -> mx.array:
        """x (..., 1, I), indices that its other axes can be broadcast to -> (*indices, 1, O)."""
        chosen, tokens = (
            x.shape[-2] == 1 and _worthwhile(self, x),
            indices.size // indices.shape[-1],
        )
        if not chosen or not (matrices := Matrices.known(self, (self,), tokens)):
            return cast(Any, super()).__call__(x, indices, sorted_indices)
        each = np.broadcast_to(np.asarray(x)[..., 0, :], (*indices.shape, x.shape[-1]))
        out = by_choice(matrices, rows(each), np.asarray(indices).ravel())
        if "bias" in cast(Any, self):
            out += np.asarray(cast(Any, self)["bias"])[np.asarray(indices).ravel()]
        return mx.array(out.reshape(*indices.shape, 1, -1))


class SwitchLinear(Chosen, compat.SwitchLinear):
    """Dense."""


class QuantizedSwitchLinear(Chosen, compat.QuantizedSwitchLinear):
    """Packed."""


class _MatrixEach(Quick):
    """A layer with a matrix for each head."""

    def numbers(self, x: np.ndarray, transpose: bool = True) -> np.ndarray:
        """x (B, E or 1, L, I) -> (B, E, L, O); not transposed, it goes from O to I."""
        B, heads, L, _ = x.shape
        matrices = Matrices.known(self, (self,), B * L)
        if matrices is None:
            return super().numbers(x, transpose)
        if not transpose or matrices.few < B * L or heads == 1:
            return matrices.times_each(x, transpose)
        ends = np.arange(1, heads + 1) * B * L
        segments = np.stack([np.arange(heads), ends - B * L, ends], axis=1)
        flat = np.ascontiguousarray(x.swapaxes(0, 1)).reshape(heads * B * L, -1)
        out = matrices.times(flat, segments).reshape(heads, B, L, -1).swapaxes(0, 1)
        return np.ascontiguousarray(out)

    def suits(self, x: mx.array) -> bool:
        """Whether a call is for the kernels."""
        return _worthwhile(self, x)


class MultiLinear(_MatrixEach, compat.MultiLinear):
    """Dense."""


class QuantizedMultiLinear(_MatrixEach, compat.QuantizedMultiLinear):
    """Packed."""


def together(holder: Any, layers: Sequence[Any], x: np.ndarray) -> np.ndarray:
    """x (..., I) through several layers -> (T, all O), at once where they are alike."""
    plain = all(isinstance(layer, _Product) and "bias" not in layer for layer in layers)
    matrices = Matrices.known(holder, layers, x.size // x.shape[-1]) if plain else None
    if matrices is not None:
        return matrices.times(rows(x))
    return np.concatenate([rows(apply(layer, x)) for layer in layers], axis=1)


def apply(module: Any, x: np.ndarray, *rest: Any) -> np.ndarray:
    """Call any module on numpy's arrays."""
    if isinstance(module, Quick):
        return module(x, *rest)
    return np.asarray(module(mx.array(x), *rest))


def by_choice(matrices: Matrices, x: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Each row of x (T, I) times the matrix that is chosen for it (T,) -> (T, all O)."""
    order = np.argsort(chosen, kind="stable")
    experts, firsts = np.unique(chosen[order], return_index=True)
    bounds = np.append(firsts, len(order))
    segments = np.stack([experts, bounds[:-1], bounds[1:]], axis=1).astype(np.int64)
    product = matrices.times(x[order], segments)
    out = np.empty_like(product)
    out[order] = product
    return out


def floats(layer: Any, x: mx.array) -> bool:
    """Whether a layer has float32 to compute with, and nobody wants gradients of it."""
    weight = layer.get("weight")
    stored = weight is None or weight.dtype in (mx.float32, mx.uint32)
    return x.dtype == mx.float32 and stored and not layer.training and _known(x)


def rows(x: np.ndarray) -> np.ndarray:
    """x (..., I) -> (T, I)."""
    return np.ascontiguousarray(x).reshape(-1, x.shape[-1])


def _times(layer: Any, x: np.ndarray) -> np.ndarray | None:
    """x (..., I) times the layer's matrix, or None where MLX is to do it."""
    matrices = Matrices.of(layer, (layer,))
    if matrices is None or x.size <= matrices.foreign * x.shape[-1]:
        return None
    return matrices.times(rows(x)).reshape(*x.shape[:-1], -1)


def _worthwhile(layer: Any, x: mx.array) -> bool:
    """Whether a call is worth to leave MLX's graph."""
    bits = getattr(layer, "bits", 32)
    return layer["weight"].size * 32 // bits >= LEAST and floats(layer, x)


def _known(x: mx.array) -> bool:
    """Whether x has numbers, once evaluated: it has none while MLX compiles or maps a function."""
    try:
        mx.eval(x)
    except ValueError:
        return False
    return True
