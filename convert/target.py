"""A recipe for a model of a given size: measured, then bought bit by bit."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import mlx.core as mx

from mlxarch import registry
from mlxarch.errors import CheckpointError, DoesNotFit
from mlxarch.quantize.allocate import Option, allocate
from mlxarch.quantize.parts import FRAGILE
from mlxarch.quantize.recipes import Recipe
from mlxarch.quantize.scheme import BITS, Scheme
from mlxarch.quantize.sensitivity import Damage, measure
from mlxarch.quantize.spelling import Spelling

from . import plan
from .inventory import Inventory
from .plan import Output, Plan
from .safetensors import MLX

# What calibration leaves of the damage of rounding to nearest, where inputs are known and where
# only scales are chosen better, as an embedding's. Measured on the built-in guide in 4 bits.
_CALIBRATED, _FITTED = 0.33, 0.85


@dataclass(frozen=True)
class Target:
    """How large an output may be: all of its shards, or its tensors for each weight."""

    bytes: int | None = None
    bits_per_weight: float | None = None

    def __str__(self) -> str:
        if self.bytes is not None:
            return f"{self.bytes:,} bytes"
        return f"{self.bits_per_weight:g} bits per weight"

    def room(self, planned: Plan) -> int:
        """Bytes that a plan is below the target; less than none if it is above."""
        if self.bytes is not None:
            return self.bytes - planned.bytes_out
        assert self.bits_per_weight is not None, "one of the two is given"
        used = sum(output.bytes for output in planned.outputs)
        return math.floor(self.bits_per_weight * planned.parameters / 8) - used


def choose(
    source: Inventory,
    recipe: Recipe,
    target: Target,
    tokens: mx.array,
    *,
    calibrated: bool,
    watch: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Recipe, dict[str, Damage]]:
    """A recipe that hits a target from below, and what was measured for it.

    Routers and whatever else the recipe holds high or keeps stays as it says, and so does what an
    override speaks of.

    Args:
        tokens: What is read to measure, (N, L).
        calibrated: Whether tensors will be calibrated rather than rounded to nearest.

    Raises: DoesNotFit if the target is too small; whatever `plan.make` and `measure` raise.
    """
    base = plan.make(source, recipe=recipe)
    free = {output.name: output for output in base.outputs if _is_free(base, output)}
    if not free:
        raise CheckpointError(f"No tensor of {source.name} is free to take more or fewer bits.")

    def planned(bits: Mapping[str, int]) -> Plan:
        chosen = {name: Scheme(own, _size(free[name])) for name, own in bits.items()}
        return plan.make(source, recipe=replace(recipe, chosen=chosen))

    least = planned(dict.fromkeys(free, BITS[0]))
    if target.room(least) < 0:
        most = planned(dict.fromkeys(free, BITS[-1]))
        raise DoesNotFit(
            f"{target} cannot be reached; {source.name} goes from {least.bits_per_weight:.2f} to "
            f"{most.bits_per_weight:.2f} bits per weight, {least.bytes_out:,} to "
            f"{most.bytes_out:,} bytes."
        )
    assert source.folder is not None, "only headers were fetched"
    sizes = {name: _size(output) for name, output in free.items()}
    damages = measure(source.folder, tokens, sizes, watch)
    spelling = Spelling(source.raw)
    options = {
        name: _options(free[name], damage, _left(spelling.path(name)) if calibrated else 1.0)
        for name, damage in damages.items()
    }
    budget = target.room(base) + sum(free[name].bytes for name in options)
    while True:
        bits = {name: scheme.bits for name, scheme in allocate(options, budget).items()}
        # Headers of files take a few bytes more or less.
        if (room := target.room(found := planned(bits))) >= 0:
            assert found.schemes is not None
            return found.schemes.recipe, damages
        budget += room


def _is_free(planned: Plan, output: Output) -> bool:
    """Whether measurements decide on a tensor."""
    assert planned.schemes is not None, "a recipe quantizes"
    if output.scheme is None or re.match(r"(mtp|vision)\.", output.name):
        return False
    fragile = FRAGILE[registry.find(planned.source.raw).module]
    if any(part.has(output.name, planned.schemes.depth) for part in fragile):
        return False
    overrides = planned.schemes.recipe.overrides
    return not any(re.search(override.pattern, output.name) for override in overrides)


def _size(output: Output) -> int:
    assert output.scheme is not None, "it is free"
    assert output.scheme.affine, "only affine bits are mixed"
    return output.scheme.group_size


def _options(output: Output, damage: Damage, left: float) -> list[Option]:
    """What each number of bits would take and cost."""
    weights, size = math.prod(output.shape), _size(output)
    scales = 2 * weights // size * MLX[output.dtype].size
    return [
        Option(Scheme(bits, size), weights * bits // 8 + scales, left * damage.at(bits))
        for bits in BITS
    ]


def _left(path: str) -> float:
    return _FITTED if path == "embed" else _CALIBRATED
