"""Who is timed: this project, in several ways, and mlx-lm."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Protocol

import mlx.core as mx
import mlx.nn as nn

from mlxarch import compat
from mlxarch.cache import Past
from mlxarch.decoder import Decoder
from mlxarch.generate import Answer
from mlxarch.pace import Pace
from mlxarch.sampling import Sampling
from mlxarch.speculate import drafter
from mlxarch.stake import Stake


@dataclass(frozen=True)
class Run:
    """One prompt read and continued, greedily."""

    prompt: int  # tokens
    prefill_seconds: float  # for all of them but the last
    seconds: list[float]  # of each token, the first since prefill's end
    memory: int  # bytes at the worst moment beyond what lay there before
    cache: int  # bytes of keys, values and states in the end
    guessed: int = 0  # tokens
    right: int = 0  # of those

    @property
    def prefill(self) -> float | None:
        """Tokens a second while the prompt is read; None where nothing was."""
        return (self.prompt - 1) / self.prefill_seconds if self.prompt > 1 else None

    @property
    def decode(self) -> float | None:
        """Tokens a second after the first one; None where there are no more."""
        return (len(self.seconds) - 1) / sum(self.seconds[1:]) if len(self.seconds) > 1 else None


class Runner(Protocol):
    """Somebody with a model in memory."""

    name: str
    ours: bool  # whether it is this project's plain or other way, else somebody else's

    def run(self, prompt: Sequence[int], tokens: int, limit: float) -> Run:
        """Read a prompt of two tokens or more and say at most so many tokens.

        Args:
            limit: Seconds after which no further token is begun.
        """
        ...


@dataclass
class Ours:
    """This project: its engine's loop, without the engine."""

    name: str
    model: Decoder
    stop_ids: frozenset[int] = frozenset()
    draft: str | Past = "off"  # see `speculate.drafter`
    kv_bits: int | None = None
    ours: bool = True
    pace: Pace = field(default_factory=Pace)
    stake: Stake = field(default_factory=Stake)

    def run(self, prompt: Sequence[int], tokens: int, limit: float) -> Run:
        """See `Runner`."""
        before = _settled()
        past, sampling = Past(self.model, self.kv_bits), Sampling()
        answer = Answer(
            self.model,
            prompt,
            past,
            drafter=drafter(self.draft, self.model, sampling),
            max_tokens=tokens,
            stop_ids=self.stop_ids,
            pace=self.pace,
            stake=self.stake,
        )
        seconds: list[float] = []
        for token in answer:
            seconds.append(token.seconds)
            if sum(seconds) > limit:
                break
        memory = mx.get_peak_memory() - before
        figures = (past.nbytes, answer.guessed, answer.right)
        return Run(len(prompt), answer.prefill_seconds, seconds, memory, *figures)


@dataclass
class Theirs:
    """mlx-lm's `generate_step`, in the type that its weights have."""

    name: str
    model: nn.Module
    ours: bool = False

    def run(self, prompt: Sequence[int], tokens: int, limit: float) -> Run:
        """See `Runner`."""
        before = _settled()
        caches = compat.make_prompt_cache(self.model)
        began, read, seconds = perf_counter(), 0.0, []

        def progress(done: int, total: int) -> None:
            nonlocal read
            if done == total - 1:
                read = perf_counter() - began

        steps = compat.generate_step(
            mx.array(list(prompt)),
            self.model,
            max_tokens=tokens,
            prompt_cache=caches,
            prompt_progress_callback=progress,
        )
        for _ in steps:
            seconds.append(perf_counter() - began - read - sum(seconds))
            if sum(seconds) > limit:
                break
        memory = mx.get_peak_memory() - before
        return Run(len(prompt), read, seconds, memory, sum(cache.nbytes for cache in caches))


def _settled() -> int:
    """Bytes that lie in memory once nothing is under way; from here on the peak is counted."""
    mx.synchronize()
    mx.clear_cache()
    mx.reset_peak_memory()
    return mx.get_active_memory()
