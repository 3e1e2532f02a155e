"""Rules over a checkpoint's names and tensors, as data.

A checkpoint is a dict from name to a lazy `mx.array`, so that a rule may be applied to a file of
which only the header was read. Each rule is applied to the whole dict and does nothing where its
source is absent.

In a name's template `{i}` stands for a number, `{e}` for an expert's number and `{}` for the rest
of the name ("weight", or "scales" and "biases" where it is quantized). Whole names match or
nothing does, so that what keeps all information can be read backwards.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Protocol

import mlx.core as mx

from mlxarch.errors import CheckpointError

Weights = dict[str, mx.array]


class Rule(Protocol):
    """Anything with `apply`."""

    def apply(self, weights: Weights) -> Weights:
        """The checkpoint after this rule."""
        ...


@dataclass(frozen=True)
class Drop:
    """Forgets the tensors whose name matches a regular expression."""

    pattern: str
    why: str

    def apply(self, weights: Weights) -> Weights:
        """All tensors but those that match."""
        return {name: w for name, w in weights.items() if not re.search(self.pattern, name)}


@dataclass(frozen=True)
class Change:
    """Computes each tensor anew whose name matches a regular expression."""

    pattern: str
    compute: Callable[[mx.array], mx.array]
    why: str

    def apply(self, weights: Weights) -> Weights:
        """The same names, some with another tensor."""
        matches = re.compile(self.pattern).search
        return {name: self.compute(w) if matches(name) else w for name, w in weights.items()}


@dataclass(frozen=True)
class When:
    """Applies rules only to a checkpoint of which something is true: that it is the hub's, say."""

    true_of: Callable[[Weights], bool]
    rules: tuple[Rule, ...]

    def apply(self, weights: Weights) -> Weights:
        """The checkpoint after the rules, or as it was."""
        return apply(self.rules, weights) if self.true_of(weights) else weights


def has(pattern: str) -> Callable[[Weights], bool]:
    """Whether any name matches a regular expression."""
    return lambda weights: any(re.search(pattern, name) for name in weights)


@dataclass(frozen=True)
class Stack:
    """Joins the tensors of all experts: `old` has an `{e}`, and each number must be there."""

    old: str
    new: str
    experts: int

    def apply(self, weights: Weights) -> Weights:
        """The checkpoint with (N, ...) tensors in place of N tensors."""
        found: dict[str, dict[int, mx.array]] = {}
        rest: Weights = {}
        for name, weight in weights.items():
            if (parts := _match(self.old, name)) is None:
                _put(rest, {name: weight})
            else:
                found.setdefault(_fill(self.new, parts), {})[int(parts["e"])] = weight
        for name, parts in found.items():
            if missing := sorted(set(range(self.experts)) - parts.keys()):
                raise CheckpointError(f"{name} lacks experts {missing} of {self.experts}.")
            if extra := sorted(parts.keys() - set(range(self.experts))):
                raise CheckpointError(f"{name} has experts {extra} beyond {self.experts}.")
            if len(shapes := {part.shape for part in parts.values()}) > 1:
                raise CheckpointError(f"{name} has experts of unlike shapes: {sorted(shapes)}.")
            _put(rest, {name: mx.stack([parts[e] for e in range(self.experts)])})
        return rest


@dataclass(frozen=True)
class Absorb:
    """Cuts what expands latents (H * (E + F), R) into its part for keys, transposed so that it
    takes queries (H, R, E), and its part for values (H, F, R)."""

    old: str
    keys: str
    values: str
    heads: int
    key_rows: int  # E

    def apply(self, weights: Weights) -> Weights:
        """The checkpoint with the two parts in place of the whole."""
        rest: Weights = {}
        for name, weight in weights.items():
            if (parts := _match(self.old, name)) is None:
                _put(rest, {name: weight})
                continue
            if weight.ndim != 2 or weight.shape[0] % self.heads:
                raise CheckpointError(
                    f"{name} has shape {list(weight.shape)}; "
                    f"config.json makes it rows for {self.heads} heads."
                )
            by_head = weight.reshape(self.heads, -1, weight.shape[-1])
            keys, values = mx.split(by_head, [self.key_rows], axis=1)
            _put(rest, {_fill(self.keys, parts): keys.swapaxes(1, 2)})
            _put(rest, {_fill(self.values, parts): values})
        return rest


@dataclass(frozen=True)
class Rename:
    """One spelling for another: `Rename("model.layers.{i}.mlp.{}", "layers.{i}.mlp.{}")`."""

    old: str
    new: str

    def apply(self, weights: Weights) -> Weights:
        """The same tensors, some under another name."""
        return _renamed(weights, lambda name: self.rename(name) or name)

    def rename(self, name: str) -> str | None:
        """The new spelling of a name, or None if this rule does not speak of it."""
        parts = _match(self.old, name)
        return None if parts is None else _fill(self.new, parts)

    def inverse(self) -> "Rename":
        """The rule that undoes this one."""
        return Rename(self.new, self.old)


@dataclass(frozen=True)
class Beyond:
    """Renames the layers from `first` on, which are no layers but heads, and counts them from 0."""

    old: str
    new: str
    first: int

    def apply(self, weights: Weights) -> Weights:
        """The same tensors, some under another name."""
        return _renamed(weights, self._rename)

    def _rename(self, name: str) -> str:
        parts = _match(self.old, name)
        if parts is None or (layer := int(parts["i"])) < self.first:
            return name
        return _fill(self.new, {**parts, "i": str(layer - self.first)})


@dataclass(frozen=True)
class Split:
    """Cuts one tensor's rows into several tensors.

    The rows are `groups` equal stretches, and each stretch is runs of the `sizes` of all new
    tensors in turn. A new tensor takes its first run of every stretch, then its second, and so on:
    sizes ((2, 2), (1,)) with one group cut 5 rows into 4 and 1.

    Rows are the last axis but one, so that a stack of experts is cut expert by expert, and the
    packed rows of a quantized tensor are cut exactly.
    """

    old: str
    new: tuple[str, ...]
    sizes: tuple[tuple[int, ...], ...]
    groups: int = 1

    def apply(self, weights: Weights) -> Weights:
        """The checkpoint with the parts in place of the whole."""
        rest: Weights = {}
        for name, weight in weights.items():
            if (parts := _match(self.old, name)) is None:
                _put(rest, {name: weight})
                continue
            flat = [size for sizes in self.sizes for size in sizes]
            if weight.ndim < 2 or weight.shape[-2] != self.groups * sum(flat):
                raise CheckpointError(
                    f"{name} has shape {list(weight.shape)}; "
                    f"config.json makes it {self.groups * sum(flat)} rows."
                )
            *lead, _, columns = weight.shape
            stretches = weight.reshape(*lead, self.groups, sum(flat), columns)
            runs = mx.split(stretches, list(accumulate(flat))[:-1], axis=-2)
            runs = [run.reshape(*lead, -1, columns) for run in runs]
            for new, sizes in zip(self.new, self.sizes, strict=True):
                own, runs = runs[: len(sizes)], runs[len(sizes) :]
                _put(rest, {_fill(new, parts): mx.concatenate(own, axis=-2)})
        return rest

    def rename(self, name: str) -> str | None:
        """The name of the first part, or None if this rule does not speak of it."""
        parts = _match(self.old, name)
        return None if parts is None else _fill(self.new[0], parts)

    def inverse(self) -> "Merge":
        """The rule that undoes this one."""
        return Merge(self.new, self.old, self.sizes, self.groups)


@dataclass(frozen=True)
class Merge:
    """Puts together what `Split` cuts."""

    old: tuple[str, ...]
    new: str
    sizes: tuple[tuple[int, ...], ...]
    groups: int = 1

    def apply(self, weights: Weights) -> Weights:
        """The checkpoint with the whole in place of the parts."""
        rest = dict(weights)
        for name in weights:
            if (parts := _match(self.old[0], name)) is None:
                continue
            runs = []
            for old, sizes in zip(self.old, self.sizes, strict=True):
                part = rest.pop(_fill(old, parts))
                cuts = [self.groups * end for end in accumulate(sizes)][:-1]
                runs += mx.split(part, cuts, axis=-2) if cuts else [part]
            *lead, _, columns = runs[0].shape
            runs = [run.reshape(*lead, self.groups, -1, columns) for run in runs]
            whole = mx.concatenate(runs, axis=-2)
            _put(rest, {_fill(self.new, parts): whole.reshape(*lead, -1, columns)})
        return rest

    def rename(self, name: str) -> str | None:
        """The name of the whole that a part belongs to, or None."""
        matches = (_match(old, name) for old in self.old)
        parts = next((found for found in matches if found is not None), None)
        return None if parts is None else _fill(self.new, parts)

    def inverse(self) -> Split:
        """The rule that undoes this one."""
        return Split(self.new, self.old, self.sizes, self.groups)


# Renames and cuts that lose nothing. The first rule that speaks of a name is the one for it.
Table = Sequence[Rename | Split | Merge]


def apply(rules: Iterable[Rule], weights: Weights) -> Weights:
    """A checkpoint after all rules, in order."""
    for rule in rules:
        weights = rule.apply(weights)
    return weights


def translate(table: Table, weights: Weights) -> Weights:
    """A checkpoint in the table's new spelling; names that the table does not know stay."""
    done: Weights = {}
    for rule in table:
        known = {name: w for name, w in weights.items() if rule.rename(name) is not None}
        weights = {name: w for name, w in weights.items() if name not in known}
        _put(done, rule.apply(known))
    _put(done, weights)
    return done


def rename(table: Table, name: str) -> str:
    """A name in the table's new spelling; unchanged where the table does not know it."""
    return next((new for rule in table if (new := rule.rename(name)) is not None), name)


def inverse(table: Table) -> Table:
    """The table read from right to left."""
    return [rule.inverse() for rule in table]


def _put(weights: Weights, more: Weights) -> None:
    """Add tensors, in place, whose names must be new."""
    if twice := sorted(weights.keys() & more.keys()):
        raise CheckpointError(f"{twice[0]} is in the checkpoint under two names; drop one.")
    weights.update(more)


def _renamed(weights: Weights, rename: Callable[[str], str]) -> Weights:
    found: Weights = {}
    for name, weight in weights.items():
        _put(found, {rename(name): weight})
    return found


@lru_cache(maxsize=4096)
def _pattern(template: str) -> re.Pattern[str]:
    literal = re.escape(template).replace(r"\{\}", r"(?P<rest>.+)")
    return re.compile(re.sub(r"\\\{(\w)\\\}", r"(?P<\1>\\d+)", literal))


def _match(template: str, name: str) -> dict[str, str] | None:
    match = _pattern(template).fullmatch(name)
    return None if match is None else match.groupdict()


def _fill(template: str, parts: dict[str, str]) -> str:
    for key, value in parts.items():
        template = template.replace("{}" if key == "rest" else f"{{{key}}}", value)
    return template
