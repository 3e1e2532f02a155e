"""Bits for each tensor, so that a model of a given size loses least.

Every tensor starts with the fewest bits. Then what gains most for each byte is bought, over and
over, until nothing fits any more. Of a tensor only those steps are for sale that a cheaper mixture
of others does not beat: the corners of the lower convex hull of bytes and damage.

Source: Shoham and Gersho, Efficient bit allocation for an arbitrary set of quantizers, IEEE
Transactions on Acoustics, Speech, and Signal Processing 36 (9), 1988.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from .scheme import Scheme


@dataclass(frozen=True)
class Option:
    """One scheme of a tensor: what it takes, and what it costs."""

    scheme: Scheme
    bytes: int
    damage: float


def allocate(options: Mapping[str, Sequence[Option]], budget: int) -> dict[str, Scheme]:
    """A scheme for each tensor, all together in at most `budget` bytes.

    Raises: ValueError if the smallest of each are too many bytes.
    """
    hulls = {name: _hull(own) for name, own in options.items()}
    left = budget - sum(hull[0].bytes for hull in hulls.values())
    if left < 0:
        raise ValueError(f"{budget - left} bytes are needed at least; {budget} are there.")
    steps = [
        ((before.damage - after.damage) / (after.bytes - before.bytes), name, index)
        for name, hull in hulls.items()
        for index, (before, after) in enumerate(pairwise(hull))
    ]
    reached = dict.fromkeys(hulls, 0)
    # A tensor's own steps gain less and less, so they come in turn.
    for _, name, index in sorted(steps, key=lambda step: (-step[0], step[1])):
        price = hulls[name][index + 1].bytes - hulls[name][index].bytes
        if reached[name] == index and price <= left:
            reached[name], left = index + 1, left - price
    return {name: hulls[name][index].scheme for name, index in reached.items()}


def _hull(options: Sequence[Option]) -> list[Option]:
    """From the smallest on, each gaining less for its bytes than the one before."""
    corners: list[Option] = []
    for option in sorted(options, key=lambda each: (each.bytes, each.damage)):
        if corners and option.damage >= corners[-1].damage:
            continue
        while len(corners) > 1 and _gain(corners[-2], option) >= _gain(corners[-2], corners[-1]):
            corners.pop()
        corners.append(option)
    return corners


def _gain(before: Option, after: Option) -> float:
    return (before.damage - after.damage) / (after.bytes - before.bytes)
