"""The figures of an answer, and how they are written."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from statistics import median
from typing import Any

from ..engine.protocol import Stats
from .transcript import Turn

NOW = 10  # tokens that make up the speed of this moment
AT = (5, 50, 95, 99)  # per cent of the tokens that took no longer

ENDINGS = {
    "stop": "",
    "length": "cut at the token limit",
    "context": "the context is full",
    "cancelled": "stopped",
    "memory": "stopped short of the memory limit",
    "interrupted": "cut off when the chat ended",
}


@dataclass(frozen=True)
class Pace:
    """How fast tokens came. The first one is left out: it waits for the prompt, not for its turn.

    Rates are in tokens per second, None while there is nothing to measure. Tokens that had been
    guessed come at once with the one before them, so the median is that of the model's own.
    """

    now: float | None
    mean: float | None
    median: float | None  # seconds
    slowest: float | None  # seconds


def pace(seconds: Sequence[float], guessed: Sequence[bool] = ()) -> Pace:
    """The pace of tokens that took `seconds` each, of which some had been `guessed`."""
    rest = seconds[1:]
    if not rest:
        return Pace(None, None, None, None)
    return Pace(_rate(rest[-NOW:]), _rate(rest), median(own(rest, guessed[1:])), max(rest))


def own(seconds: Sequence[float], guessed: Sequence[bool]) -> Sequence[float]:
    """The seconds of the tokens that nobody had guessed, if there are any."""
    return [value for value, free in zip(seconds, guessed, strict=False) if not free] or seconds


def _rate(seconds: Sequence[float]) -> float | None:
    total = sum(seconds)
    return len(seconds) / total if total > 0 else None


@dataclass(frozen=True)
class Guesses:
    """What became of the tokens that somebody guessed ahead of the model."""

    right: int
    wrong: int

    @property
    def share(self) -> float:
        """How many were right, of 1."""
        return self.right / (self.right + self.wrong)


def guesses(turn: Turn) -> Guesses | None:
    """The guesses so far; None if there were none."""
    if turn.stats and turn.stats.guessed_tokens:
        right = turn.stats.right_tokens
        return Guesses(right, turn.stats.guessed_tokens - right)
    right = sum(turn.guessed)
    return Guesses(right, turn.rejected) if right or turn.rejected else None


def facts(turn: Turn) -> dict[str, Any]:
    """The figures of an answer as JSON holds them, to be kept with it."""
    return {
        "seconds": [round(value, 6) for value in turn.seconds],
        "guessed": [index for index, guessed in enumerate(turn.guessed) if guessed],
        "rejected": turn.rejected,
        "lengths": turn.lengths,
        "thoughts": turn.thoughts,
        "first": turn.first,
        "stats": asdict(turn.stats) if turn.stats else None,
        "ended": turn.ended,
        "failed": turn.failed,
    }


def recall(turn: Turn, kept: dict[str, Any]) -> None:
    """Give an answer the figures that were kept with it."""
    turn.seconds = list(kept.get("seconds", []))
    guessed = set(kept.get("guessed", []))
    turn.guessed = [index in guessed for index in range(len(turn.seconds))]
    turn.rejected, turn.lengths = kept.get("rejected", 0), list(kept.get("lengths", []))
    turn.thoughts, turn.first = kept.get("thoughts", 0), kept.get("first")
    if stats := kept.get("stats"):
        known = {field.name for field in fields(Stats)}
        turn.stats = Stats(**{key: value for key, value in stats.items() if key in known})
    turn.ended, turn.failed = kept.get("ended"), kept.get("failed", False)


def summary(turn: Turn) -> str:
    """One line about an answer that has ended."""
    if turn.wordless:
        how = "failed" if turn.failed else ENDINGS[turn.ended or "stop"] or "ended"
        if turn.partial:
            return f"{how} while it was thinking · /continue has it go on"
        return f"{how} before the first word · not sent to the model again"
    parts = ["failed" if turn.failed else ENDINGS[turn.ended or "stop"]]
    parts.append(tokens(len(turn.seconds)))
    speed = pace(turn.seconds, turn.guessed)
    if speed.mean is not None and speed.median is not None:
        parts += [f"{rate(speed.mean)} tok/s", f"{milliseconds(speed.median)} ms"]
    if turn.first is not None:
        parts.append(f"first {duration(turn.first)}")
    if stats := turn.stats:
        parts.append(cached(stats.cached_tokens, stats.prompt_tokens))
    if found := guesses(turn):
        parts.append(f"{percent(found.share)} of {found.right + found.wrong:,} guesses right")
    return " · ".join(part for part in parts if part)


def details(turn: Turn) -> list[tuple[str, str]]:
    """All that is known of an answer that has ended, by name."""
    found = [("tokens", f"{len(turn.seconds):,}")]
    if turn.thoughts:
        found = [("tokens", f"{len(turn.seconds):,}, {turn.thoughts:,} of them thoughts")]
    ordered = sorted(own(turn.seconds[1:], turn.guessed[1:]))
    speed = pace(turn.seconds, turn.guessed)
    if ordered and speed.mean is not None:
        marks = [(f"{at} %", ordered[min(len(ordered) * at // 100, len(ordered) - 1)]) for at in AT]
        marks += [("slowest", ordered[-1])]
        text = " · ".join(f"{name} {milliseconds(value)}" for name, value in marks)
        found += [("milliseconds", text), ("speed", f"{rate(speed.mean)} tokens a second")]
    if turn.first is not None:
        found.append(("first token", f"{duration(turn.first)} after the question"))
    if stats := turn.stats:
        fresh = stats.prompt_tokens - stats.cached_tokens
        read = f"{fresh:,} read in {duration(stats.prefill_seconds)}"
        if stats.prefill_seconds > 0 and fresh > 1:
            read += f", {rate(fresh / stats.prefill_seconds)} tok/s"
        found.append(("prompt", f"{cached(stats.cached_tokens, stats.prompt_tokens)} · {read}"))
    if made := guesses(turn):
        counts = f"{made.right:,} right, {made.wrong:,} wrong ({percent(made.share)})"
        found.append(("guesses", counts))
    how = "failed" if turn.failed else ENDINGS[turn.ended or "stop"]
    return [*found, ("ended", how or "by the model")]


def cached(count: int, total: int) -> str:
    """What of a prompt did not have to be read: `cached 1,290 of 1,812 tokens`."""
    return f"cached {count:,} of {tokens(total)}"


def percent(share: float) -> str:
    """`76 %`; what is little, but something, is `<1 %`."""
    return "<1 %" if 0 < share < 0.005 else f"{share:.0%}".replace("%", " %")


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
