"""Layers with the CPU's own kernels, beside the same without."""

import sys

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from twins import randomised

from mlxarch import backend

# On Linux it is installed with us, so that its absence is a failure there.
if sys.platform != "linux":
    pytest.importorskip("numba", reason="the kernels are numba's, which is not asked for here")
from mlxarch.kernels import QUICK, blas, layers

LIMIT = 1e-5
FORMATS = [("affine", bits, group) for bits in (2, 3, 4, 5, 6, 8) for group in (32, 64, 128)]
FORMATS += [("mxfp4", 4, 32)]


@pytest.fixture
def any_size(monkeypatch):
    """Layers as small as those of tests are worth it too; large work is done side by side."""
    monkeypatch.setattr(layers, "LEAST", 0)
    monkeypatch.setattr(blas, "_LARGE", 0)


def quick(module):
    """A copy of a module with our kernels, on the same arrays."""
    holder = nn.Module()
    holder.module = module
    backend.quicken(holder)
    return module


def pairs(make):
    """Two equal modules, and kernels in the second one."""
    first, second = randomised(make(), 0).eval(), make().eval()
    second.update(first.parameters())
    before = type(second)
    assert type(quick(second)) is QUICK[before]
    return first, second


def random(*shape, seed=0):
    return mx.random.normal(shape, key=mx.random.key(seed))


def packed(inputs, outputs, form, experts=None, kind=nn.QuantizedLinear, **options):
    """A packed layer with our kernels, and its numbers as floats."""
    mode, bits, group = form
    shape = (outputs, inputs) if experts is None else (experts, outputs, inputs)
    sizes = (inputs, outputs) if experts is None else (inputs, outputs, experts)
    layer = kind(*sizes, group_size=group, bits=bits, mode=mode, **options)
    layer.weight, layer.scales, *biases = mx.quantize(random(*shape), group, bits, mode=mode)
    layer.biases = biases[0] if biases else None
    dense = mx.dequantize(
        layer.weight, layer.scales, layer.biases, group_size=group, bits=bits, mode=mode
    )
    return quick(layer), np.array(dense.astype(mx.float32)).astype(np.float64)
