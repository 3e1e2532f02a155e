"""What each tensor's precision is worth to a model: measured, not guessed.

A little text goes through the original model, one layer in memory at a time. Where a tensor is
used the text branches: a copy of it goes on as if this tensor alone had 3 bits. At the end each
copy's predictions are compared with the original's. On the built-in guide these divergences span a
factor of 150, add up to that of the whole model in 3 bits to within 8 per cent, and fall with more
bits as the squared error of the weights does. So one number for each tensor foretells any mixture.

Source: Kullback, Information Theory and Statistics, 1959, chapter 2, for divergences as squares.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from mlxarch import shards
from mlxarch.errors import CheckpointError

from .product import Matrix, Product
from .scheme import BITS, Scheme
from .spelling import Spelling
from .stream import Stream

# Bits of the one tensor: enough damage to rise above rounding, little enough to add up.
PROBE = 3
# Positions whose logits are compared at once, and weights of a tensor that are looked at to see
# what more bits would gain.
_POSITIONS, _SAMPLE = 64, 1 << 20


@dataclass(frozen=True)
class Damage:
    """What rounding one tensor to nearest costs a model."""

    kl: float  # nats a token with 3 bits
    errors: Mapping[int, float]  # of the weights, squared, by bits; with 3 bits it is 1

    def at(self, bits: int) -> float:
        """Nats a token with other bits."""
        return self.kl * self.errors[bits]


@dataclass(frozen=True)
class _Copy:
    """The text as one tensor has changed it: what the output head is fed with (positions, D)."""

    name: str
    normed: mx.array
    head: Matrix | None = None  # instead of the model's own


def measure(
    folder: Path,
    tokens: mx.array,
    group_sizes: Mapping[str, int],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Damage]:
    """The damage of each tensor on its own, of those that the text passes through.

    Args:
        tokens: What is read (N, L): a few hundred are enough.
        group_sizes: The tensors, in mlx-lm's spelling, and their groups.
        progress: Called with the layers that have read, and all of them.

    Raises: CheckpointError if the model computes what is no number.
    """
    spelling, stream = Spelling(shards.read_config(folder)), Stream(folder, tokens)
    assert len(stream.x) == 1, "the text is one batch"
    errors, branches, ends = {}, [], {}
    for name, size in group_sizes.items():
        if (path := spelling.path(name)) in ("embed", "head"):
            matrix = (stream.embed if path == "embed" else stream.head).matrix
            ends[path] = name, _rounded(matrix, Scheme(PROBE, size))
            errors[name] = _errors([matrix], size)
    if "embed" in ends:
        stream.branch(ends["embed"][1])
        branches.append(ends["embed"][0])
    for layer in stream.layers():
        for name, size in group_sizes.items():
            own = [layer.linears[part] for part in spelling.parts(name, layer.linears)]
            if own:
                matrices = [product.matrix for product in own]
                _exchange(own, [_rounded(matrix, Scheme(PROBE, size)) for matrix in matrices])
                layer.branch()
                _exchange(own, matrices)
                errors[name] = _errors(matrices, size)
                branches.append(name)
        layer.outputs()
        progress(stream.index + 1, stream.depth)
    before, *after = stream.normed()
    flat = [
        copy.reshape(-1, copy.shape[-1])
        for batch in after
        for copy in mx.split(batch, batch.shape[0] // tokens.shape[0])
    ]
    copies = [_Copy(*each) for each in zip(branches, flat, strict=True)]
    if stream.head is stream.embed and "embed" in ends:
        copies[0] = _Copy(copies[0].name, copies[0].normed, ends["embed"][1])
    original = before.reshape(-1, before.shape[-1])
    if "head" in ends:
        copies.append(_Copy(ends["head"][0], original, ends["head"][1]))
    divergences = _divergences(stream, original, copies)
    return {name: Damage(kl, errors[name]) for name, kl in divergences.items()}


def _exchange(products: Sequence[Product], matrices: Sequence[Matrix]) -> None:
    for product, matrix in zip(products, matrices, strict=True):
        product.matrix = matrix


def _divergences(stream: Stream, original: mx.array, copies: Sequence[_Copy]) -> dict[str, float]:
    """KL(original || copy) of each copy, a mean over positions."""
    own, count = stream.head.matrix, original.shape[0]
    found = dict.fromkeys((copy.name for copy in copies), 0.0)
    for start in range(0, count, _POSITIONS):
        part = slice(start, start + _POSITIONS)
        expected = _log_shares(stream, original[part])
        for copy in copies:
            stream.head.matrix = copy.head or own
            change = expected - _log_shares(stream, copy.normed[part])
            stream.head.matrix = own
            found[copy.name] += float((mx.exp(expected) * change).sum()) / count
    if damaged := [name for name, kl in found.items() if not math.isfinite(kl)]:
        raise CheckpointError(
            f"The model computes what is no number where it uses {damaged[0]}; "
            "a weight is damaged or out of the range of its type."
        )
    # Rounding may leave a hair below zero.
    return {name: max(kl, 0.0) for name, kl in found.items()}


def _log_shares(stream: Stream, normed: mx.array) -> mx.array:
    logits = stream.logits_of(normed)
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)


def _rounded(matrix: Matrix, scheme: Scheme) -> Matrix:
    """A matrix in a few bits, each weight to the nearest, expert by expert."""
    if len(matrix.shape) == 2:
        return _packed(matrix, scheme)
    packed = [_packed(matrix[expert], scheme) for expert in range(matrix.shape[0])]
    arrays = zip(*(each.arrays for each in packed), strict=True)
    return Matrix(*(mx.stack(list(array)) for array in arrays), scheme=scheme)


def _packed(matrix: Matrix, scheme: Scheme) -> Matrix:
    arrays = mx.quantize(matrix.dense(), scheme.group_size, scheme.bits)
    mx.eval(arrays)
    return Matrix(*arrays, scheme=scheme)


def _errors(matrices: Sequence[Matrix], group_size: int) -> dict[int, float]:
    """The squared error that rounding to nearest makes by bits, as a multiple of that with 3."""
    samples = [_sample(matrix) for matrix in matrices]
    lost = dict.fromkeys(BITS, 0.0)
    for bits in BITS:
        for sample in samples:
            read = _packed(sample, Scheme(bits, group_size)).dense()
            lost[bits] += float((read - sample.dense()).square().sum())
    return {bits: error / lost[PROBE] if lost[PROBE] else 1.0 for bits, error in lost.items()}


def _sample(matrix: Matrix) -> Matrix:
    """Rows from all over a matrix, and from a few experts."""
    if len(matrix.shape) == 3:
        matrix = matrix[matrix.shape[0] // 2]
    wanted = max(1, _SAMPLE // matrix.shape[-1])
    return matrix[:: -(-matrix.shape[0] // wanted)]
