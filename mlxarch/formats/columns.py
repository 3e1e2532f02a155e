"""AWQ and GPTQ: few bits, stored column by column; MLX has rows.

A module has `qweight`, `qzeros` and `scales` (G, M). Their shapes say how many bits there are and
how large a group is, so that every module may have its own.

Source: casper-hansen/AutoAWQ, utils/packing_utils.py; AutoGPTQ, nn_modules/qlinear/qlinear_cuda.py;
ModelCloud/GPTQModel, utils/model.py, and vllm-project/vllm#38966 for what became of zeros.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlxarch.errors import FormatError
from mlxarch.names.rules import Rule, Shaped, Step

from .integers import Integers, Source
from .layout import beside, unpack

_LOW = mx.array(0x0F0F0F0F, mx.uint32)
# Where AWQ's words of eight numbers, lowest bits first, have column 0, column 1 ...
_AWQ_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)


@dataclass(frozen=True)
class Columns(Rule):
    """What AWQ and GPTQ share."""

    packed: bool

    def steps(self, weights: Mapping[str, Shaped]) -> Iterator[Step]:
        """MLX's tensors, or floats, in place of a module's."""
        for name in weights:
            if name.endswith(".qweight"):
                path = name.removesuffix("qweight")
                yield from self._integers(path, weights).steps(packed=self.packed)

    def _integers(self, path: str, weights: Mapping[str, Shaped]) -> Integers:
        shapes = {
            end: tuple(weights[beside(weights, path + end, f"{path}qweight")].shape)
            for end in ("qweight", "scales", "qzeros")
        }
        found = ", ".join(f"{end} {list(shape)}" for end, shape in shapes.items())
        wrong = FormatError(f"{path[:-1]} has {found}, which make no rows of 2, 4 or 8 bits.")
        if any(len(shape) < 2 or 0 in shape for shape in shapes.values()):
            raise wrong
        *lead, groups, rows = shapes["scales"]
        bits = 32 * shapes["qzeros"][-1] // rows
        columns = self._columns(shapes["qweight"], bits)
        if (
            bits not in (2, 4, 8)
            or shapes["qzeros"] != (*lead, groups, rows * bits // 32)
            or shapes["qweight"] != (*lead, *self._shape(rows, columns, bits))
            or columns % groups
        ):
            raise wrong
        group = columns // groups
        return Integers(
            path,
            bits,
            rows,
            columns,
            group,
            words=self._words(path, group, weights),
            scales=((f"{path}scales",), lambda scales: scales.swapaxes(-1, -2)),
            zeros=self._zeros(f"{path}qzeros", bits),
        )

    @abstractmethod
    def _columns(self, qweight: tuple[int, ...], bits: int) -> int: ...

    @abstractmethod
    def _shape(self, rows: int, columns: int, bits: int) -> tuple[int, ...]: ...

    @abstractmethod
    def _words(self, path: str, group: int, weights: Mapping[str, Shaped]) -> Source: ...

    @abstractmethod
    def _zeros(self, name: str, bits: int) -> Source | None: ...


@dataclass(frozen=True)
class Awq(Columns):
    """Four bits: qweight (C, M / 8) and qzeros (G, M / 8), eight rows' numbers to a word."""

    def _columns(self, qweight: tuple[int, ...], bits: int) -> int:
        return qweight[-2]

    def _shape(self, rows: int, columns: int, bits: int) -> tuple[int, ...]:
        return (columns, rows // 8) if bits == 4 and columns % 8 == 0 else ()

    def _words(self, path: str, group: int, weights: Mapping[str, Shaped]) -> Source:
        def words(qweight: mx.array) -> mx.array:
            # Pairs of columns, as the halves of bytes; first of what is in low halves, then high.
            even, odd = (qweight.view(mx.uint32)[..., i::2, :] for i in (0, 1))
            low = (even & _LOW) | (odd & _LOW) << 4
            high = (even >> 4 & _LOW) | (odd & ~_LOW)
            pairs = mx.stack([low, high], axis=-1).view(mx.uint8)
            # Of a row's number in its word, a half is the second bit, a byte the first and third.
            pairs = mx.unflatten(pairs, -1, (2, 2, 2))
            lead = range(pairs.ndim - 5)
            pairs = pairs.transpose(*lead, *(axis - 5 for axis in (1, 4, 2, 3, 0)))
            return pairs.reshape(*qweight.shape[:-2], -1, pairs.shape[-1]).view(mx.uint32)

        return (f"{path}qweight",), words

    def _zeros(self, name: str, bits: int) -> Source:
        def zeros(qzeros: mx.array) -> mx.array:
            numbers = mx.unflatten(unpack(qzeros, 4), -1, (-1, 8))[..., mx.array(_AWQ_PLACES)]
            return numbers.flatten(-2).swapaxes(-1, -2)

        return (name,), zeros


@dataclass(frozen=True)
class Gptq(Columns):
    """qweight (C * bits / 32, M): a column is a stream of bits, as MLX's rows are.

    qzeros (G, M * bits / 32) holds zeros, less one in the first version of the format. Where
    numbers are symmetric it is not looked at: writers disagree on what it should hold then.
    """

    symmetric: bool
    less_one: bool

    def _columns(self, qweight: tuple[int, ...], bits: int) -> int:
        return 32 * qweight[-2] // max(1, bits)

    def _shape(self, rows: int, columns: int, bits: int) -> tuple[int, ...]:
        return (columns * bits // 32, rows)

    def _words(self, path: str, group: int, weights: Mapping[str, Shaped]) -> Source:
        def words(qweight: mx.array, *order: mx.array) -> mx.array:
            for groups in order:
                _check_order(f"{path}g_idx", groups, group)
            return mx.contiguous(qweight.swapaxes(-1, -2)).view(mx.uint32)

        order = [name for name in (f"{path}g_idx",) if name in weights]
        return (f"{path}qweight", *order), words

    def _zeros(self, name: str, bits: int) -> Source | None:
        def zeros(qzeros: mx.array) -> mx.array:
            numbers = unpack(qzeros, bits) + self.less_one
            # A zero of 0, less one, was cut to the bits that there are.
            return mx.where(numbers == 1 << bits, 0, numbers).swapaxes(-1, -2)

        return None if self.symmetric else ((name,), zeros)


def _check_order(name: str, groups: mx.array, size: int) -> None:
    """Raise FormatError unless columns are in the order of their groups, or nothing is said."""
    found = np.array(groups)
    if found.any() and (found != np.arange(found.shape[-1]) // size).any():
        raise FormatError(
            f"{name} puts columns out of order (desc_act); what has them in order is read. "
            "Start from the original, or from one quantized without desc_act."
        )
