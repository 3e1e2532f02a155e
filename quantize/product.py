"""Linear layers that hold their weight as it is stored, and multiply in float32.

A layer takes the memory of its stored form: packed rows and half floats become float32 a few at a
time, while they are used. Whoever wants to know what a layer is fed with can watch, and its weight
can be exchanged.

Shapes: T tokens   I input features   O output features   N experts
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_map

from mlxarch import backend
from mlxarch.compat import MultiLinear, SwitchGLU

from .scheme import Scheme

# Bytes of a weight in float32 at once.
_SLICE = 64 << 20

# Called with what a layer is called with: inputs (..., I) and, of experts, which they are for.
Watch = Callable[[mx.array, mx.array | None], None]


@dataclass(frozen=True)
class Matrix:
    """Rows of a checkpoint, floating or packed: (O, I), or (N, O, I) for experts."""

    weight: mx.array
    scales: mx.array | None = None
    biases: mx.array | None = None
    scheme: Scheme | None = None

    @classmethod
    def of(cls, layer: nn.Module) -> "Matrix":
        """That of a linear layer, of experts or of an embedding."""
        if "scales" not in layer:
            return cls(layer["weight"])
        scheme = Scheme(layer.bits, layer.group_size, layer.mode)
        return cls(layer["weight"], layer["scales"], layer.get("biases"), scheme)

    @property
    def shape(self) -> tuple[int, ...]:
        """As if it were not packed."""
        if self.scales is None or self.scheme is None:
            return tuple(self.weight.shape)
        return (*self.weight.shape[:-1], self.scales.shape[-1] * self.scheme.group_size)

    @property
    def arrays(self) -> list[mx.array]:
        """What is stored."""
        return [a for a in (self.weight, self.scales, self.biases) if a is not None]

    def __getitem__(self, which: Any) -> "Matrix":
        scales, biases = (None if a is None else a[which] for a in (self.scales, self.biases))
        return Matrix(self.weight[which], scales, biases, self.scheme)

    def dense(self) -> mx.array:
        """All rows in float32, exactly."""
        if self.scales is None or self.scheme is None:
            return self.weight.astype(mx.float32)
        scales, biases = self.scales, self.biases
        if biases is not None:
            scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
        layout = (self.scheme.group_size, self.scheme.bits, self.scheme.mode)
        return mx.dequantize(self.weight, scales, biases, *layout, dtype=mx.float32)


class Product:
    """Stands in for a linear layer, or for those of all experts as mlx-lm's SwitchLinear."""

    def __init__(self, layer: nn.Module):
        self.matrix, self.bias = Matrix.of(layer), layer.get("bias")
        self.watch: Watch | None = None
        mx.eval(self.matrix.arrays)

    def __call__(self, x: mx.array, experts: mx.array | None = None, **_: object) -> mx.array:
        """x (..., I) -> (..., O); with experts (...), x (..., 1, I) -> (..., 1, O)."""
        self.see(x, experts)
        if experts is not None:
            return self._of_experts(x, experts)
        out = self._times(flattened(x)[0], self.matrix)
        out = out if self.bias is None else out + self.bias.astype(mx.float32)
        return out.reshape(*x.shape[:-1], -1)

    def see(self, x: mx.array, experts: mx.array | None = None) -> None:
        """Show inputs to who watches."""
        if self.watch is not None:
            self.watch(x, experts)

    def _of_experts(self, x: mx.array, experts: mx.array) -> mx.array:
        flat, which = flattened(x, experts)
        order = np.argsort(which, kind="stable")
        ends = np.searchsorted(which[order], np.arange(self.matrix.shape[0] + 1))
        out = []
        for expert in np.unique(which).tolist():
            own = mx.array(order[ends[expert] : ends[expert + 1]])
            product = self._times(flat[own], self.matrix[expert])
            if self.bias is not None:
                product = product + self.bias[expert].astype(mx.float32)
            out.append(product)
        back = mx.array(np.argsort(order))
        return mx.concatenate(out)[back].reshape(*experts.shape, 1, -1)

    def _times(self, x: mx.array, matrix: Matrix) -> mx.array:
        """x (T, I) times a matrix (O, I) -> (T, O)."""
        if backend.device() != "CPU":
            return mx.concatenate([x @ rows.T for rows in _slices(matrix)], axis=-1)
        # MLX's own products in float32 are thirty times slower on a CPU than BLAS.
        left = np.array(x, copy=False)
        # Whoever reads what comes out looks for what is no number.
        with np.errstate(all="ignore"):
            out = [left @ np.array(rows, copy=False).T for rows in _slices(matrix)]
        return mx.array(np.concatenate(out, axis=-1))


def stand_in(block: nn.Module) -> dict[str, Product]:
    """Replace the linear layers of a block, in place; what else it has becomes float32.

    Returns: What stands in, by its path in the block.
    """
    found: dict[str, Product] = {}
    for path, module in list(block.named_modules()):
        for name, child in module.children().items():
            if not isinstance(child, nn.Module) or "weight" not in child:
                continue
            linear = isinstance(child, nn.Linear | nn.QuantizedLinear)
            if linear or isinstance(module, SwitchGLU):
                found[f"{path}.{name}".lstrip(".")] = product = Product(child)
                setattr(module, name, product)
            elif "scales" in child:
                # Packed layers of each head, which latent attention also uses transposed.
                dense = MultiLinear(1, 1, 1)
                dense.weight = Matrix.of(child).dense()
                setattr(module, name, dense)
    block.update(tree_map(_float32, block.parameters()))
    mx.eval(block.parameters())
    return found


def flattened(x: mx.array, experts: mx.array | None = None) -> tuple[mx.array, np.ndarray]:
    """What a `Product` is called with, one row after another.

    Returns: Inputs (T, I) float32, and which expert each is for (T,), 0 where there are none.
    """
    if experts is not None:
        x = mx.broadcast_to(x, (*experts.shape, *x.shape[-2:]))
    flat = x.reshape(-1, x.shape[-1]).astype(mx.float32)
    none = np.zeros(flat.shape[0], np.uint32)
    return flat, none if experts is None else np.array(experts).reshape(-1)


def _slices(matrix: Matrix) -> Iterator[mx.array]:
    """The rows in float32, a few at a time."""
    rows = max(1, _SLICE // (4 * matrix.shape[-1]))
    for start in range(0, matrix.shape[0], rows):
        yield matrix[start : start + rows].dense()


def _float32(weight: mx.array) -> mx.array:
    return weight.astype(mx.float32) if mx.issubdtype(weight.dtype, mx.floating) else weight
