"""GPTQ: a matrix in few bits whose errors cancel on what it is fed with.

`H`, the mean of x xᵀ over calibration tokens, says what an error costs: e H eᵀ for an error e of
one row. Columns are rounded one after another, and what rounding one loses is made good by those
that are not rounded yet. A group's scale and bias are chosen when its first column is reached.

Then all is gone over again, column by column and group by group: with everything else as it is,
each has a best value, and taking it can only lower the cost.

Shapes: O rows   I columns   G columns of a group

Source: arXiv:2210.17323, algorithm 1; the second part is coordinate descent, arXiv:2309.01885.
"""

from dataclasses import dataclass

import numpy as np

from mlxarch.errors import CheckpointError

from .grids import Grid, Group

# Added to the diagonal, as a share of its mean: inputs that were not seen must not be given away.
DAMPING = 0.03
# How often all is gone over again; on the built-in guide the third time gains a hundredth.
PASSES = 2


@dataclass(frozen=True)
class Cost:
    """What errors of a row cost, given what it is fed with."""

    hessian: np.ndarray  # (I, I) float32, damped
    upper: np.ndarray  # U of H⁻¹ = Uᵀ U: what an error in one column asks of those after it

    @classmethod
    def of(cls, mean: np.ndarray) -> "Cost":
        """From the mean of x xᵀ.

        Raises: CheckpointError if that is no number.
        """
        exact = mean.astype(np.float64)
        if not np.isfinite(exact).all():
            raise CheckpointError(
                "The model computes what is no number while it reads the calibration text; "
                "a weight is damaged or out of the range of its type."
            )
        size = float(np.trace(exact)) / len(exact)
        exact[np.diag_indices_from(exact)] += DAMPING * size if size > 0 else 1.0
        # H = R Rᵀ with R upper triangular, since H read backwards has a lower one; U is R⁻¹.
        root = np.linalg.cholesky(exact[::-1, ::-1])[::-1, ::-1]
        return cls(exact.astype(np.float32), np.linalg.inv(root).astype(np.float32))


@dataclass(frozen=True)
class Rounded:
    """A matrix in a grid's levels."""

    codes: np.ndarray  # (O, I) uint8
    groups: list[Group]
    values: np.ndarray  # (O, I) float32, what will be read


def quantize(weight: np.ndarray, cost: Cost | None, grid: Grid) -> Rounded:
    """Round a matrix (O, I) float32; without a cost each of its weights counts alike."""
    if cost is None:
        return _one_by_one(weight, grid)
    size, left = grid.scheme.group_size, weight.copy()
    importance = 1 / np.square(np.diag(cost.upper))
    codes, values, groups = np.empty(weight.shape, np.uint8), np.empty_like(left), []
    for start in range(0, weight.shape[1], size):
        part = slice(start, start + size)
        groups.append(grid.fit(left[:, part], importance[part]))
        codes[:, part] = _feed_forward(left, cost.upper, part, grid, groups[-1])
        values[:, part] = grid.values(codes[:, part], groups[-1])
    rounded = Rounded(codes, groups, values)
    pull = (weight - values) @ cost.hessian
    for _ in range(PASSES):
        for i in range(len(groups)):
            _improve(rounded, pull, cost.hessian, grid, i)
    return rounded


def _one_by_one(weight: np.ndarray, grid: Grid) -> Rounded:
    size, alike = grid.scheme.group_size, np.ones(grid.scheme.group_size, np.float32)
    codes, values, groups = np.empty(weight.shape, np.uint8), np.empty_like(weight), []
    for start in range(0, weight.shape[1], size):
        part = slice(start, start + size)
        groups.append(grid.fit(weight[:, part], alike))
        codes[:, part] = grid.codes(weight[:, part], groups[-1])
        values[:, part] = grid.values(codes[:, part], groups[-1])
    return Rounded(codes, groups, values)


def _feed_forward(
    left: np.ndarray, upper: np.ndarray, part: slice, grid: Grid, group: Group
) -> np.ndarray:
    """The codes of a group's columns; what they lose is taken from those after them, in place."""
    own, square = left[:, part], upper[part, part]
    codes, errors = np.empty(own.shape, np.uint8), np.empty_like(own)
    for i in range(own.shape[1]):
        column = own[:, i : i + 1]
        codes[:, i : i + 1] = code = grid.codes(column, group)
        errors[:, i : i + 1] = error = (column - grid.values(code, group)) / square[i, i]
        own[:, i + 1 :] -= error * square[i, i + 1 :]
    left[:, part.stop :] -= errors @ upper[part, part.stop :]
    return codes


def _improve(
    rounded: Rounded, pull: np.ndarray, hessian: np.ndarray, grid: Grid, index: int
) -> None:
    """Give one group its best line, then each of its columns its best code, in place.

    Args:
        pull: Minus half the cost's slope, (weight - values) H.
    """
    size = grid.scheme.group_size
    part = slice(index * size, (index + 1) * size)
    square, codes, values = hessian[part, part], rounded.codes[:, part], rounded.values[:, part]
    before, own = values.copy(), pull[:, part].copy()
    group = rounded.groups[index]
    if grid.scheme.affine:
        wanted = grid.line(codes, own + values @ square, square, group)
        change = grid.values(codes, wanted) - values
        better = ((2 * own - change @ square) * change).sum(1, keepdims=True) > 0
        rounded.groups[index] = group = wanted.where(better, group)
        change = np.where(better, change, 0)
        values += change
        own -= change @ square
    for i in range(size):
        column = values[:, i : i + 1]
        code = grid.codes(column + own[:, i : i + 1] / square[i, i], group)
        change = grid.values(code, group) - column
        codes[:, i : i + 1] = code
        column += change
        own -= change * square[i]
    pull -= (values - before) @ hessian[part]
