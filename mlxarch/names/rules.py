"""Rules over a checkpoint's names and tensors, as data.

A checkpoint is a dict from name to a lazy `mx.array`, so that a rule may be applied to a file of
which only the header was read. Each rule is applied to the whole dict and does nothing where its
source is absent.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import mlx.core as mx

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
class Rename:
    """One spelling for another: `Rename("model.layers.{i}.mlp.{}", "layers.{i}.mlp.{}")`.

    `{i}` stands for a number, `{}` for the rest of the name. Whole names match or nothing does,
    so that every rename can be read backwards.
    """

    old: str
    new: str

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        literal = re.escape(self.old)
        return re.compile(
            literal.replace(r"\{i\}", r"(?P<i>\d+)").replace(r"\{\}", r"(?P<rest>.+)")
        )

    def rename(self, name: str) -> str | None:
        """The new spelling of a name, or None if this rule does not speak of it."""
        if (match := self._pattern.fullmatch(name)) is None:
            return None
        groups = match.groupdict()
        return self.new.replace("{i}", groups.get("i", "")).replace("{}", groups.get("rest", ""))

    def inverse(self) -> "Rename":
        """The rule that undoes this one."""
        return Rename(self.new, self.old)


def apply(rules: Iterable[Rule], weights: Weights) -> Weights:
    """A checkpoint after all rules, in order."""
    for rule in rules:
        weights = rule.apply(weights)
    return weights


def rename(table: Iterable[Rename], name: str) -> str:
    """A name in the table's new spelling; unchanged where the table does not know it."""
    return next((new for rule in table if (new := rule.rename(name)) is not None), name)


def inverse(table: Iterable[Rename]) -> list[Rename]:
    """The table read from right to left."""
    return [rule.inverse() for rule in table]
