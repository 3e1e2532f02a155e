"""Numbers as people read them."""


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


def _three(value: float) -> str:
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:,.0f}"
