"""Rules over a checkpoint's names and tensors, as data.

A checkpoint is a dict from name to a lazy `mx.array`, so that a rule may be applied to a file of
which only the header was read. A rule says of the names it knows which tensor is made of which and
how; of the others nothing. So what a tensor comes from is known before anything is read.

In a name's template `{i}` stands for a number, `{e}` for an expert's number and `{}` for the rest
of the name ("weight", or "scales" and "biases" where it is quantized). Whole names match or
nothing does, so that what keeps all information can be read backwards.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import accumulate
from typing import Protocol, TypeVar

import mlx.core as mx

from mlxarch.errors import CheckpointError

Weights = dict[str, mx.array]


class Shaped(Protocol):
    """A tensor, or what stands for one."""

    @property
    def shape(self) -> tuple[int, ...]: ...  # noqa: D102


def same(weight: mx.array) -> mx.array:
    """A tensor as it is."""
    return weight


def stack(*parts: mx.array) -> mx.array:
    """N tensors (...) as one (N, ...)."""
    return mx.stack(list(parts))


@dataclass(frozen=True)
class Step:
    """One tensor made of others, which are used up; without a name they are forgotten."""

    name: str | None
    sources: tuple[str, ...]
    make: Callable[..., mx.array] = same


T = TypeVar("T", bound=Shaped)


class Rule(ABC):
    """What is made of the tensors that a rule knows."""

    @abstractmethod
    def steps(self, weights: Mapping[str, Shaped]) -> Iterator[Step]:
        """The tensors to make; those that no step names stay as they are.

        Raises: CheckpointError for tensors that the rule knows and that it cannot suit.
        """

    def apply(self, weights: Weights) -> Weights:
        """The checkpoint after this rule."""
        return apply([self], weights)


@dataclass(frozen=True)
class Drop(Rule):
    """Forgets the tensors whose name matches a regular expression."""

    pattern: str
    why: str

    def steps(self, weights: Mapping[str, Shaped]) -> Iterator[Step]:
        """Nothing is made of those that match."""
        matches = re.compile(self.pattern).search
        return (Step(None, (name,)) for name in weights if matches(name))


@dataclass(frozen=True)
class Change(Rule):
    """Computes each tensor anew whose name matches a regular expression."""

    pattern: str
    compute: Callable[[mx.array], mx.array]
    why: str

    def steps(self, weights: Mapping[str, Shaped]) -> Iterator[Step]:
        """The same names with another tensor."""
        matches = re.compile(self.pattern).search
        return (Step(name, (name,), self.compute) for name in weights if matches(name))


@dataclass(frozen=True)
class When(Rule):
    """A rule only for a checkpoint of which something is true: that it is the hub's, say."""

    true_of: Callable[[Mapping[str, Shaped]], bool]
    rule: Rule

    def steps(self, weights: Mapping[str, Shaped]) -> Iterator[Step]:
        """The rule's, or none."""
        return self.rule.steps(weights) if self.true_of(weights) else iter(())


def has(pattern: str) -> Callable[[Mapping[str, Shaped]], bool]:
    """Whether any name matches a regular expression."""
    return lambda weights: any(re.search(pattern, name) for name in weights)


@dataclass(frozen=True)
class Stack(Rule):
    """Joins the tensors of all experts: `old` has an `{e}`, and each number must be there."""

    old: str
    new: str
    experts: int

    def steps(self, weights: Mapping[str, Shaped]) -> Iterator[Step]:
        """(N, ...) tensors in place of N tensors."""
        found: dict[str, dict[int, str]] = {}
        for name in weights:
            if (parts := _match(self.old, name)) is not None:
                found.setdefault(_fill(self.new, parts), {})[int(parts["e"])] = name
        for name, parts in found.items():
            if missing := sorted(set(range(self.experts)) - parts.keys()):
                raise CheckpointError(f"{name} lacks experts {missing} of {self.experts}.")
            if extra := sorted(parts.keys() - set(range(self.experts))):
                raise CheckpointError(f"{name} has experts {extra} beyond {self.experts}.")
            if len(shapes := {tuple(weights[part].shape) for part in parts.values()}) > 1:
                raise CheckpointError(f"{name} has experts of unlike shapes: {sorted(shapes)}.")
            yield Step(name, tuple(parts[e] for e in range(self.experts)), stack)


@dataclass(frozen=True)
class Absorb(Rule):
    """Cuts what expands latents (H * (E + F), R) into its part for keys, transposed so that it
    takes queries (H, R, E), and its part for values (H, F, R)."""

    old: str
    keys: str
    values: str
    heads: int
    key_rows: int  # E

    def steps(self, weights: Mapping[str, Shaped]) -> Iterator[Step]:
        """The two parts in place of the whole."""
        for name, weight in weights.items():
            if (parts := _match(self.old, name)) is None:
                continue
            if len(weight.shape) != 2 or weight.shape[0] % self.heads:
                raise CheckpointError(
                    f"{name} has shape {list(weight.shape)}; "
                    f"config.json makes it rows for {self.heads} heads."
                )
            yield Step(_fill(self.keys, parts), (name,), self._keys)
            yield Step(_fill(self.values, parts), (name,), self._values)

    def _keys(self, weight: mx.array) -> mx.array:
        return self._by_head(weight)[:, : self.key_rows].swapaxes(1, 2)

    def _values(self, weight: mx.array) -> mx.array:
        return self._by_head(weight)[:, self.key_rows :]

    def _by_head(self, weight: mx.array) -> mx.array:
        return weight.reshape(self.heads, -1, weight.shape[-1])


@dataclass(frozen=True)
class Rename(Rule):
    """One spelling for another: `Rename("model.layers.{i}.mlp.{}", "layers.{i}.mlp.{}")`."""

    old: str
    new: str

    def steps(self, weights: Mapping[str, Shaped]) -> Iterator[Step]:
        """The same tensors under another name."""
        for name in weights:
            if (new := self.rename(name)) is not None:
                yield Step(new, (name,))

    def rename(self, name: str) -> str | None:
        """The new spelling of a name, or None if this rule does not speak of it."""
        parts = _match(self.old, name)
        return None if parts is None else _fill(self.new, parts)

    def inverse(self) -> "Rename":
        """The rule that undoes this one."""
        return Rename(self.new, self.old)


@dataclass(frozen=True)
class Beyond(Rule):
    """Renames the layers from `first` on, which are no layers but heads, and counts them from 0."""

    old: str
    new: str
    first: int

    def steps(self, weights: Mapping[str, Shaped]) -> Iterator[Step]:
        """The same tensors under another name."""
        for name in weights:
            parts = _match(self.old, name)
            if parts is not None and (layer := int(parts["i"])) >= self.first:
                yield Step(_fill(self.new, {**parts, "i": str(layer - self.first)}), (name,))


@dataclass(frozen=True)
class Split(Rule):
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

    def steps(self, weights: Mapping[str, Shaped]) -> Iterator[Step]:
        """The parts in place of the whole."""
        rows = self.groups * sum(map(sum, self.sizes))
        for name, weight in weights.items():
            if (parts := _match(self.old, name)) is None:
                continue
            if len(weight.shape) < 2 or weight.shape[-2] != rows:
                raise CheckpointError(
                    f"{name} has shape {list(weight.shape)}; config.json makes it {rows} rows."
                )
            for i, new in enumerate(self.new):
                yield Step(_fill(new, parts), (name,), partial(self._cut, i))

    def _cut(self, i: int, weight: mx.array) -> mx.array:
        """The part number `i` of a whole (..., rows, columns)."""
        *lead, _, columns = weight.shape
        stretches = weight.reshape(*lead, self.groups, -1, columns)
        end, runs = sum(map(sum, self.sizes[:i])), []
        for size in self.sizes[i]:
            start, end = end, end + size
            runs.append(stretches[..., start:end, :].reshape(*lead, -1, columns))
        return mx.concatenate(runs, axis=-2)

    def rename(self, name: str) -> str | None:
        """The name of the first part, or None if this rule does not speak of it."""
        parts = _match(self.old, name)
        return None if parts is None else _fill(self.new[0], parts)

    def inverse(self) -> "Merge":
        """The rule that undoes this one."""
        return Merge(self.new, self.old, self.sizes, self.groups)


@dataclass(frozen=True)
class Merge(Rule):
    """Puts together what `Split` cuts."""

    old: tuple[str, ...]
    new: str
    sizes: tuple[tuple[int, ...], ...]
    groups: int = 1

    def steps(self, weights: Mapping[str, Shaped]) -> Iterator[Step]:
        """The whole in place of the parts."""
        for name in weights:
            if (parts := _match(self.old[0], name)) is not None:
                sources = tuple(_fill(old, parts) for old in self.old)
                yield Step(_fill(self.new, parts), sources, self._join)

    def _join(self, *wholes: mx.array) -> mx.array:
        runs = []
        for part, sizes in zip(wholes, self.sizes, strict=True):
            cuts = [self.groups * end for end in accumulate(sizes)][:-1]
            runs += mx.split(part, cuts, axis=-2) if cuts else [part]
        *lead, _, columns = runs[0].shape
        runs = [run.reshape(*lead, self.groups, -1, columns) for run in runs]
        return mx.concatenate(runs, axis=-2).reshape(*lead, -1, columns)

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


def _make(step: Step, parts: Sequence[mx.array]) -> mx.array:
    return step.make(*parts)


def apply(rules: Iterable[Rule], weights: Weights) -> Weights:
    """A checkpoint after all rules, in order."""
    return follow(rules, weights, _make)


def follow(
    rules: Iterable[Rule],
    weights: Mapping[str, T],
    make: Callable[[Step, Sequence[T]], T],
) -> dict[str, T]:
    """What all rules make, in order, of anything that has a shape.

    Raises: CheckpointError if two tensors would have one name.
    """
    done = dict(weights)
    for rule in rules:
        steps = list(rule.steps(done))
        made = [
            (step.name, make(step, [done[source] for source in step.sources]))
            for step in steps
            if step.name is not None
        ]
        for step in steps:
            for source in step.sources:
                done.pop(source, None)
        for name, weight in made:
            _put(done, {name: weight})
    return done


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


def _put(weights: dict[str, T], more: Mapping[str, T]) -> None:
    """Add tensors, in place, whose names must be new."""
    if twice := sorted(weights.keys() & more.keys()):
        raise CheckpointError(f"{twice[0]} is in the checkpoint under two names; drop one.")
    weights.update(more)


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
