"""Weights rounded by what they are fed with: GPTQ for any architecture, layer by layer.

The original model reads a text once. What each linear layer is fed with is then known, and its
weights are rounded so that what it makes of that changes least. Which layers have been rounded
before does not matter: on the built-in guide inputs from a model that is rounded so far did no
better (mean KL 0.049 against 0.048 in 4 bits), and so any tensor may be asked for at any time and
comes out the same.

What has no known inputs, such as an embedding or an expert that no token came to, gets the scales
and biases that leave the least error. Of what is used from both sides, nothing is known here.
"""

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import cast

import mlx.core as mx
import numpy as np

from mlxarch import shards
from mlxarch.names.rules import Weights

from . import gptq
from .gptq import Cost
from .grids import Grid
from .inputs import ExpertHessians, Hessian, Inputs
from .pack import Packed
from .product import Matrix, Product
from .scheme import Scheme
from .spelling import Spelling
from .stream import Layer, Stream

# The text that ships with mlxarch, and how many stretches of 512 tokens of a text are read.
TEXT, STRETCHES = "calibration.txt", 32
# Bytes of rows in float32 that are rounded at once.
_ROWS = 64 << 20
# Layers whose inputs are stored, for a run that is killed: an output file may begin in an earlier
# layer than it ends in.
_STORED = 3


class Calibrated:
    """A `Method` of `convert.write` that rounds to where errors do least.

    Args:
        folder: The checkpoint, in any spelling.
        tokens: What it reads (N, L).
        dtypes: What scales and biases are stored in, for each tensor that may be asked for.
    """

    def __init__(self, folder: Path, tokens: mx.array, dtypes: Mapping[str, mx.Dtype]):
        self.folder, self.tokens, self.dtypes = folder, tokens, dtypes

    @property
    def word(self) -> str:
        """What makes two runs of it the same."""
        read = hashlib.sha256(np.array(self.tokens).astype("<i8").tobytes()).hexdigest()
        return f"gptq {gptq.DAMPING} {gptq.PASSES} {list(self.tokens.shape)} {read}"

    def start(
        self, state: Path, progress: Callable[[int, int], None] = lambda done, total: None
    ) -> Callable[[str, Scheme], Packed | None]:
        """What packs a tensor by its name; None if it is to be rounded to nearest.

        Args:
            state: A folder, which may not be there yet, for what a later run goes on from.
            progress: Called with the layers that have read the text, and all of them.
        """
        return _Walk(self, state, progress).pack


class _Walk:
    """The text on its way through the model, as far as tensors have been asked for."""

    def __init__(self, job: Calibrated, state: Path, progress: Callable[[int, int], None]):
        self._spelling = Spelling(shards.read_config(job.folder))
        self._job, self._state, self._progress = job, state, progress
        self._layer: Layer | None = None
        self._inputs: Inputs | None = None
        self._start(0)

    def pack(self, name: str, scheme: Scheme) -> Packed | None:
        """A tensor in few bits, by its name in mlx-lm's spelling; None if it has to be rounded."""
        linears, inputs = self._known(self._spelling.path(name))
        grid = Grid(scheme, self._job.dtypes[name])
        ours: Weights = {}
        lost = norm = 0.0
        for part in self._spelling.parts(name, linears):
            hessian = None if inputs is None else inputs[part]
            found = round_matrix(linears[part].matrix, hessian, grid)
            ours |= {f"{part}.{kind}": array for kind, array in found.arrays.items()}
            lost, norm = lost + found.lost, norm + found.norm
        if not ours:
            return None
        # What is cut apart here may be one tensor there; its rows are put together as they were.
        theirs, base = self._spelling.theirs(ours), name.removesuffix("weight")
        arrays = (theirs.get(f"{base}{kind}") for kind in ("weight", "scales", "biases"))
        return Packed(*([] if a is None else [a] for a in arrays), lost=lost, norm=norm)

    def _known(self, path: str) -> tuple[dict[str, Product], Inputs | None]:
        """The linear layers among which a tensor is, and what they are fed with."""
        kind, *rest = path.split(".")
        if kind == "layers":
            self._go_to(int(rest[0]))
        elif kind == "mtp":
            self._go_to(self._stream.depth + int(rest[0]))
        else:
            outer = {"embed": self._stream.embed, "head": self._stream.head}
            found = {path: outer[path]} if path in outer else {}
            return found, self._of_head() if path == "head" else None
        return {} if self._layer is None else self._layer.linears, self._inputs

    def _start(self, index: int) -> None:
        """Begin at a layer whose inputs are stored, or at the first."""
        self._layer = self._inputs = None
        self._stream = Stream(self._job.folder, self._job.tokens)
        if index:
            self._stream.restore(index, cast(Weights, mx.load(str(self._file(index)))))
        self._layers = chain(self._stream.layers(), self._stream.heads())
        self._here = index - 1

    def _go_to(self, index: int) -> None:
        """Let the text go on, or start again, until a layer has read it."""
        if index == self._here:
            return
        stored = max((i for i in self._indices() if i <= index), default=0)
        if index < self._here or stored > self._here + 1:
            self._start(stored)
        while self._here < index:
            self._layer = self._inputs = None
            self._layer = next(self._layers, None)
            self._here += 1
            if self._layer is None:
                return
            if self._here == index:
                self._store()
                self._inputs = Inputs(self._layer.linears)
            self._layer.outputs()
            self._progress(self._here + 1, self._stream.depth)

    def _of_head(self) -> Inputs:
        """What the output head is fed with. It is asked for first, so the text is read twice."""
        self._go_to(self._stream.depth)
        found = Inputs({"head": self._stream.head})
        for x in self._stream.normed():
            self._stream.head.see(x)
        return found

    def _store(self) -> None:
        """Keep what the layer is fed with, for a run that goes on here; forget the oldest."""
        if not 0 < self._here <= self._stream.depth or self._file(self._here).exists():
            return
        self._state.mkdir(parents=True, exist_ok=True)
        unfinished = self._state / "unfinished.safetensors"
        mx.save_safetensors(str(unfinished), self._stream.state())
        with unfinished.open("rb+") as file:
            os.fsync(file.fileno())
        unfinished.replace(self._file(self._here))
        for index in sorted(self._indices())[:-_STORED]:
            self._file(index).unlink()

    def _indices(self) -> list[int]:
        return [int(file.stem.removeprefix("layer-")) for file in self._state.glob("layer-*")]

    def _file(self, index: int) -> Path:
        return self._state / f"layer-{index}.safetensors"


@dataclass(frozen=True)
class RoundedMatrix:
    """MLX's arrays for a linear layer or for all experts, and what they lose."""

    arrays: dict[str, mx.array]  # weight, scales and, if it has them, biases
    lost: float  # ‖rounded - weight‖²
    norm: float  # ‖weight‖²


def round_matrix(
    matrix: Matrix, hessian: Hessian | ExpertHessians | None, grid: Grid
) -> RoundedMatrix:
    """Round a matrix, expert by expert where there are several, some rows at a time."""
    single = len(matrix.shape) == 2
    found = [
        _round_rows(
            matrix if expert is None else matrix[expert],
            None if hessian is None else hessian.cost(expert),
            grid,
        )
        for expert in ([None] if single else range(matrix.shape[0]))
    ]
    join = mx.concatenate if single else mx.stack
    arrays = {kind: join([each.arrays[kind] for each in found]) for kind in found[0].arrays}
    return RoundedMatrix(arrays, sum(e.lost for e in found), sum(e.norm for e in found))


def _round_rows(matrix: Matrix, cost: Cost | None, grid: Grid) -> RoundedMatrix:
    rows = max(1, _ROWS // (4 * matrix.shape[-1]))
    pieces: dict[str, list[mx.array]] = {}
    lost = norm = 0.0
    for start in range(0, matrix.shape[0], rows):
        weight = np.array(matrix[start : start + rows].dense())
        rounded = gptq.quantize(weight, cost, grid)
        packed = grid.pack(rounded.codes, rounded.groups)
        for kind, array in zip(("weight", "scales", "biases"), packed, strict=False):
            pieces.setdefault(kind, []).append(array)
        lost += float(np.square(weight - rounded.values, dtype=np.float64).sum())
        norm += float(np.square(weight, dtype=np.float64).sum())
    return RoundedMatrix({kind: mx.concatenate(p) for kind, p in pieces.items()}, lost, norm)
