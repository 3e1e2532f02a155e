"""A tensor in few bits, and how far that is from what it was.

Scales and biases get the weight's own type, as in every checkpoint of the MLX community: so 8 bits
of a bfloat16 weight are off by 0.6 per cent where those of a float16 weight are off by 0.5.

Source: mlx, python/src/ops.cpp, `quantize`; mlx-lm, utils.py, `quantize_model`.
"""

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import mlx.core as mx
import numpy as np

from mlxarch import backend

from .scheme import Scheme

# Bytes of a weight that are packed at once: float32 copies of it are needed for the error, and no
# single command may keep a GPU busy for seconds.
_PIECE = 1 << 20


# Streams of the CPU at once, and pieces that may be under way: their float32 copies are in memory.
_MOST, _AHEAD = 4, 2
_here = threading.local()  # a stream belongs to the thread that made it


@dataclass(frozen=True)
class Packed:
    """A quantized tensor, a few rows at a time, in the order of the rows."""

    weight: list[mx.array]
    scales: list[mx.array]
    biases: list[mx.array]  # none but in affine mode
    lost: float  # ‖dequantized - weight‖²
    norm: float  # ‖weight‖²

    @property
    def relative_error(self) -> float:
        """‖dequantized - weight‖ / ‖weight‖."""
        return math.sqrt(self.lost / self.norm) if self.norm else 0.0


def pack(weight: mx.array, scheme: Scheme) -> Packed:
    """Quantize the rows of a tensor (..., columns) that is already in memory."""
    weight = weight.reshape(-1, weight.shape[-1])
    rows = max(1, _PIECE // (weight.shape[-1] * weight.itemsize))
    layout = (scheme.group_size, scheme.bits, scheme.mode)
    codes, scales, biases, errors = [], [], [], []
    for i, start in enumerate(range(0, weight.shape[0], rows)):
        with mx.stream(_streams()[i % len(_streams())]):
            piece = weight[start : start + rows]
            own = mx.quantize(piece, *layout)
            exact, kept = piece.astype(mx.float32), dequantize(own, scheme)
            sums = mx.stack([(exact - kept).square().sum(), exact.square().sum()])
            mx.async_eval(own, sums)
        # Only affine has biases.
        for kind, array in zip((codes, scales, biases), own, strict=False):
            kind.append(array)
        errors.append(sums)
        if i >= _AHEAD:
            mx.eval(errors[i - _AHEAD])
    found = np.array([np.array(sums) for sums in errors], dtype=np.float64)
    lost, norm = cast(list[float], found.sum(axis=0).tolist())
    return Packed(codes, scales, biases, lost, norm)


def _streams() -> list[mx.Stream]:
    """Where pieces are packed at once: a thread for each core, or the GPU's one queue."""
    if not hasattr(_here, "streams"):
        cpu = mx.default_device() == mx.Device(mx.cpu)
        _here.streams = (
            [mx.new_stream(mx.Device(mx.cpu)) for _ in range(min(backend.cores(), _MOST))]
            if cpu
            else [mx.default_stream(mx.default_device())]
        )
    return _here.streams


def dequantize(packed: Sequence[mx.array], scheme: Scheme) -> mx.array:
    """The numbers in float32 that weight, scales and, if the mode has them, biases stand for."""
    weight, scales, biases = packed if scheme.affine else (*packed, None)
    if biases is not None:
        scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
    layout = (scheme.group_size, scheme.bits, scheme.mode)
    return mx.dequantize(weight, scales, biases, *layout, dtype=mx.float32)
