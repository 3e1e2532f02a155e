"""Which tensor gets how many bits, and why: named recipes, in mlx-lm's spelling of the names.

    schemes = candidate("mixed:4g32").fit(architecture, shapes)
    schemes.scheme("model.layers.0.self_attn.q_proj.weight", (4096, 4096))

A recipe starts from the scheme that most of a model gets. What is fragile gets more or stays as it
is. Then it spends what its room allows: the parts in `parts.SPENT` get more bits in turn, as long
as the whole stays within so many per cent of what mlx-lm would write. So where experts are nearly
all bytes, all else gets more; where a table of tokens is a third, it does not.

Source: mlx-lm, utils.py, `quantize_model`, which "uniform" repeats.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from mlxarch.errors import CheckpointError

from .parts import EXPERTS, FRAGILE, SPENT, Part
from .scheme import GRAMMAR, Scheme

if TYPE_CHECKING:
    from mlxarch.registry import Architecture

Shapes = Mapping[str, tuple[int, ...]]
DEFAULT, MIXED, UNIFORM = "default", "mixed", "uniform"
# What each recipe may write beyond mlx-lm's bytes with the same scheme, as a share of them.
ROOM = {DEFAULT: 0.01, MIXED: 0.1, UNIFORM: 0.0}


@dataclass(frozen=True)
class Override:
    """What the tensors get whose name a regular expression finds; None is as they are."""

    pattern: str
    scheme: Scheme | None

    def __str__(self) -> str:
        return f"{self.pattern}={self.scheme.word if self.scheme else 'keep'}"

    @classmethod
    def parse(cls, text: str) -> "Override":
        """REGEX=BITS, where BITS is what `Scheme.parse` reads or "keep".

        Raises: ValueError.
        """
        pattern, equals, word = text.rpartition("=")
        if not equals:
            raise ValueError(f"{text!r} has no REGEX=BITS; BITS is keep, {GRAMMAR}.")
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}.") from error
        return cls(pattern, None if word == "keep" else Scheme.parse(word))


@dataclass(frozen=True)
class Recipe:
    """What somebody wants of any model's tensors; `fit` says what that is for one model."""

    name: str = DEFAULT
    base: Scheme = field(default_factory=Scheme)
    overrides: tuple[Override, ...] = ()  # the last that finds a name counts
    chosen: Mapping[str, Scheme | None] = field(default_factory=dict)  # by name, as measured

    def __post_init__(self):
        if self.name not in ROOM:
            raise ValueError(f"{self.name!r} is no recipe; there are {', '.join(ROOM)}.")

    def __str__(self) -> str:
        changes = "".join(f", {override}" for override in self.overrides)
        measured = f", {len(self.chosen)} tensors as measured" if self.chosen else ""
        return f"{self.name}, {self.base}{measured}{changes}"

    def fit(self, architecture: "Architecture", shapes: Shapes) -> "Schemes":
        """This recipe for a model of which all tensors are known.

        Raises: CheckpointError if an override finds nothing that can be quantized.
        """
        layers = [int(i) for name in shapes for i in re.findall(r"\blayers\.(\d+)\.", name)]
        depth = max(layers, default=-1) + 1
        fragile = FRAGILE[architecture.module]
        theirs = tuple(replace(part, gets=part.theirs) for part in fragile)
        # What is asked for by name is beside the room: it moves nothing else.
        plain = Recipe(self.name, self.base)
        as_mlx_lm = Schemes(plain, theirs, depth)
        if self.name == UNIFORM:
            return self._checked(replace(as_mlx_lm, recipe=self), shapes)
        fitted = Schemes(plain, fragile, depth)
        size, limit = fitted.bytes(shapes), (1 + ROOM[self.name]) * as_mlx_lm.bytes(shapes)
        for part in SPENT:
            richer = replace(fitted, parts=(*fragile, part, *fitted.parts[len(fragile) :]))
            if size < (larger := richer.bytes(shapes)) <= limit:
                fitted, size = richer, larger
        return self._checked(replace(fitted, recipe=self), shapes)

    def _checked(self, fitted: "Schemes", shapes: Shapes) -> "Schemes":
        """What was fitted, if each override finds something that can be quantized."""
        every = replace(fitted, recipe=Recipe(overrides=(Override("", Scheme()),)))
        can = [name for name, shape in shapes.items() if every.wanted(name, shape)]
        for override in self.overrides:
            if not any(re.search(override.pattern, name) for name in can):
                listed = dict.fromkeys(re.sub(r"\.\d+\.", ".{i}.", name) for name in can)
                raise CheckpointError(
                    f"Override {override.pattern!r} finds no tensor that can be quantized; "
                    f"there are {', '.join(listed)}."
                )
        return fitted


def candidate(text: str) -> Recipe:
    """A recipe by its name, a scheme, or both: "mixed", "4g32", "mixed:mxfp4".

    A scheme alone is the base of the default recipe, a name alone has 4 bits in groups of 64.

    Raises: ValueError.
    """
    if text in ROOM:
        return Recipe(text)
    name, colon, word = text.rpartition(":")
    try:
        return Recipe(name if colon else DEFAULT, Scheme.parse(word))
    except ValueError as error:
        raise ValueError(
            f"{error} {', '.join(ROOM)} are recipes, RECIPE:FORMAT is both."
        ) from error


@dataclass(frozen=True)
class Schemes:
    """The scheme of every tensor of one model."""

    recipe: Recipe
    parts: tuple[Part, ...]  # the first that has a tensor counts
    depth: int  # layers

    def scheme(self, name: str, shape: tuple[int, ...]) -> Scheme | None:
        """What a tensor gets; None stays as it is. A row that is no multiple of a group stays."""
        wanted = self.wanted(name, shape)
        return wanted if wanted is not None and wanted.fits(shape) else None

    def wanted(self, name: str, shape: tuple[int, ...]) -> Scheme | None:
        """What a tensor would get whatever its rows."""
        part, base = self._part(name), self.recipe.base
        if not _is_matrix(name, shape) or (part and part.fixed):
            return None
        for override in reversed(self.recipe.overrides):
            if re.search(override.pattern, name):
                return override.scheme
        if name in self.recipe.chosen:
            return self.recipe.chosen[name]
        own = base if part is None else part.gets(base)
        return own if own is None or own.fits(shape) else base

    def kind(self, name: str, shape: tuple[int, ...]) -> str:
        """What a tensor is, for people."""
        if aside := re.match(r"mtp|vision", name):
            return aside[0]
        if not _is_matrix(name, shape):
            return "norms, biases"
        parts = (*self.parts, *(part for part in SPENT if not part.early), EXPERTS)
        return next((part.kind for part in parts if part.has(name, self.depth)), "mlp")

    def bytes(self, shapes: Shapes) -> float:
        """What mlx-lm would read of such a model, floats taken for 16 bits."""
        total = 0.0
        for name, shape in shapes.items():
            if not name.startswith(("mtp.", "vision.")):
                scheme = self.scheme(name, shape)
                total += math.prod(shape) * (16 if scheme is None else scheme.bits_per_weight) / 8
        return total

    def _part(self, name: str) -> Part | None:
        return next((part for part in self.parts if part.has(name, self.depth)), None)


def _is_matrix(name: str, shape: tuple[int, ...]) -> bool:
    return name.endswith(".weight") and len(shape) in (2, 3)
