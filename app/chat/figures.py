"""The figures of an answer, and how they are written."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from .transcript import Turn

NOW = 10  # tokens that make up the speed of this moment

ENDINGS = {
    "stop": "",
    "length": "cut at the token limit",
    "context": "the context is full",
    "cancelled": "stopped",
    "memory": "stopped short of the memory limit",
}


@dataclass(frozen=True)
class Pace:
    """How fast tokens came. The first one is left out: it waits for the prompt, not for its turn.

    Rates are in tokens per second, None while there is nothing to measure.
    """

    now: float | None
    mean: float | None
    median: float | None  # seconds
    slowest: float | None  # seconds


def pace(seconds: Sequence[float]) -> Pace:
    """The pace of tokens that took `seconds` each."""
    rest = seconds[1:]
    if not rest:
        return Pace(None, None, None, None)
    return Pace(_rate(rest[-NOW:]), _rate(rest), median(rest), max(rest))


def _rate(seconds: Sequence[float]) -> float | None:
    total = sum(seconds)
    return len(seconds) / total if total > 0 else None


def summary(turn: Turn) -> str:
    """One line about an answer that has ended."""
    if turn.wordless:
        how = "failed" if turn.failed else ENDINGS[turn.ended or "stop"] or "ended"
        return f"{how} before the first word · not sent to the model again"
    parts = ["failed" if turn.failed else ENDINGS[turn.ended or "stop"]]
    parts.append(tokens(len(turn.seconds)))
    speed = pace(turn.seconds)
    if speed.mean is not None and speed.median is not None:
        parts += [f"{rate(speed.mean)}/s", f"{milliseconds(speed.median)} ms"]
    if turn.first is not None:
        parts.append(f"first {duration(turn.first)}")
    if stats := turn.stats:
        fresh = f"{stats.prompt_tokens - stats.cached_tokens:,} of " if stats.cached_tokens else ""
        parts.append(f"read {fresh}{stats.prompt_tokens:,} in {duration(stats.prefill_seconds)}")
    return " · ".join(part for part in parts if part)


def rate(per_second: float) -> str:
    """`42.7`, and from a hundred on `173` or `1,280`."""
    return f"{per_second:,.0f}" if per_second >= 99.95 else f"{per_second:.1f}"


def tokens(count: int) -> str:
    """`1 token`, `2,048 tokens`."""
    return f"{count:,} token" if count == 1 else f"{count:,} tokens"


def milliseconds(seconds: float) -> str:
    """`0.42`, `4.2` or `42`, without the unit."""
    value = seconds * 1000
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}" if value >= 0.995 else f"{value:.2f}"


def duration(seconds: float) -> str:
    """`0.84 s`, `8.4 s`, `84 s` or `2 min 5 s`."""
    if seconds >= 99.5:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest} s"
    return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.0f} s"


def size(count: int) -> str:
    """Bytes as people read them: `7.9 GB`, `42 MB`."""
    for unit, power in (("GB", 1e9), ("MB", 1e6)):
        if count >= power:
            value = count / power
            return f"{value:.1f} {unit}" if value < 99.95 else f"{value:.0f} {unit}"
    return f"{count / 1e3:.0f} kB"


def short(count: int) -> str:
    """A count in few characters: `812`, `12.3k`, `131k`, `3.9B`."""
    for unit, power in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= power:
            value = count / power
            return f"{value:.1f}{unit}" if value < 9.95 or unit == "B" else f"{value:.0f}{unit}"
    return str(count)
