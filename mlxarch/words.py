"""Numbers as people read them."""

import time

_AGES = (("year", 365 * 86_400), ("month", 30 * 86_400), ("day", 86_400), ("hour", 3_600))


def size(count: int) -> str:
    """Bytes in three digits: `797 GB`, `61.4 kB`, `2,024 GB`."""
    for unit, power in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= power:
            return f"{_three(count / power)} {unit}"
    return f"{count} B"


def many(count: int) -> str:
    """Parameters in three digits: `399B`, `12.8B`, `752M`."""
    for unit, power in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= power:
            return f"{_three(count / power)}{unit}"
    return str(count)


def ago(then: float) -> str:
    """How long ago, in the largest unit that fits: `3 days ago`."""
    passed = max(0.0, time.time() - then)
    for unit, seconds in _AGES:
        if count := int(passed // seconds):
            return f"{count} {unit}{'' if count == 1 else 's'} ago"
    return "just now"


def _three(value: float) -> str:
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:,.0f}"
