"""Runs that take turns, so that what else the machine does strikes all of them alike."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median

from .runners import Run, Runner

_TRIAL = 8  # tokens of the first prompt that somebody is tried with


@dataclass(frozen=True)
class Spread:
    """What several runs found."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float | None]) -> "Spread | None":
        """That of what is known; None where nothing is."""
        known = [value for value in values if value is not None]
        return cls(median(known), min(known), max(known)) if known else None


@dataclass
class Row:
    """One runner at one length of the prompt."""

    runner: Runner
    context: int  # tokens of the prompt that were wanted
    runs: list[Run] = field(default_factory=list)

    @property
    def prompt(self) -> int:
        """Tokens of it that were read: fewer, where that would have taken too long."""
        return self.runs[0].prompt if self.runs else 0

    @property
    def prefill(self) -> Spread | None:
        """Tokens of the prompt a second."""
        return Spread.of([run.prefill for run in self.runs])

    @property
    def decode(self) -> Spread | None:
        """Tokens of the answer a second."""
        return Spread.of([run.decode for run in self.runs])

    @property
    def memory(self) -> int:
        """Bytes at the worst moment, beyond weights."""
        return max((run.memory for run in self.runs), default=0)

    @property
    def accepted(self) -> float | None:
        """The share of guesses that were right; None where nobody guessed."""
        guessed = sum(run.guessed for run in self.runs)
        return sum(run.right for run in self.runs) / guessed if guessed else None


def measure(
    runners: Sequence[Runner],
    prompts: Sequence[Sequence[int]],
    *,
    tokens: int,
    rounds: int,
    limit: float,
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> Iterator[list[Row]]:
    """The rows of each prompt, yielded when all its rounds are done.

    Args:
        limit: Seconds that reading a prompt or answering it may take about; who is slower gets
            fewer tokens.
        progress: Called with the runs that are done, all of them, and the one that is next.
    """
    total, done = len(runners) * len(prompts) * rounds, 0
    for prompt in prompts:
        turns: deque[tuple[Row, int]] = deque()
        for runner in runners:
            progress(done, total, f"{runner.name}, warming up")
            turns.append((Row(runner, len(prompt)), _affordable(runner, prompt, limit)))
        rows = [row for row, _ in turns]
        for _ in range(rounds):
            for row, length in turns:
                progress(done, total, f"{row.runner.name}, {length:,} tokens")
                row.runs.append(row.runner.run(prompt[:length], tokens, limit))
                done += 1
            turns.rotate(1)  # nobody always comes first
        yield rows


def _affordable(runner: Runner, prompt: Sequence[int], limit: float) -> int:
    """How many tokens of a prompt can be read within a limit in seconds; warms up on the way."""
    length = _TRIAL
    while length < len(prompt):
        seconds = runner.run(prompt[:length], 2, limit).prefill_seconds
        if seconds * len(prompt) / length <= limit:
            break
        if 4 * seconds > limit:
            return length
        length *= 4
    else:
        runner.run(prompt, 2, limit)
    return len(prompt)
