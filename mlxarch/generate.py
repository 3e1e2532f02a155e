"""One token at a time, with its seconds.

The next step is handed to the device before the last token is read from it, so that the device
never waits for Python.   Source: the pipeline is that of mlx-lm, generate.py.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, NamedTuple, cast

import mlx.core as mx

from . import backend
from .cache import Past
from .decoder import Decoder
from .errors import FormatError

Reason = Literal["stop", "length", "context", "cancelled"]
Sampler = Callable[[mx.array], mx.array]  # logits (B, V) -> tokens (B,)

# How many tokens go by before the memory that steps of another size left behind is given back.
_TIDY = 256


class Token(NamedTuple):
    """A generated token."""

    id: int
    seconds: float  # since the token before it, or since prefill's end


@dataclass
class Pace:
    """How many tokens of a prompt are read at once: about as many as take `seconds`.

    Long enough to keep the device busy, short enough that cancelling is felt at once. Learnt from
    piece to piece, so one `Pace` should stay with its model.
    """

    tokens: int = field(default_factory=lambda: 4 if backend.device() == "CPU" else 128)
    most: int = field(default_factory=lambda: 512 if backend.device() == "CPU" else 2048)
    seconds: float = 0.4

    def learn(self, tokens: int, seconds: float) -> None:
        """Account for a piece that was read; one that was cut short says little."""
        if tokens >= self.tokens:
            fitting = int(tokens * self.seconds / max(seconds, 1e-9))
            fitting = max(1, min(fitting, 4 * tokens, self.most))
            self.tokens = 1 << (fitting.bit_length() - 1)


def sampler(temperature: float = 0.0, top_p: float = 1.0) -> Sampler:
    """How a token is chosen; the likeliest one at temperature 0.

    Source: temperature before top-p as in transformers, generation/logits_process.py.
    """
    if temperature == 0:
        return partial(mx.argmax, axis=-1)

    def sample(logits: mx.array) -> mx.array:
        logits = logits.astype(mx.float32) / temperature
        return mx.random.categorical(_nucleus(logits, top_p) if top_p < 1 else logits)

    return sample


def _nucleus(logits: mx.array, top_p: float) -> mx.array:
    """Only the likeliest tokens (B, V) that together have a probability of `top_p`."""
    ascending = mx.sort(logits, axis=-1)
    above = mx.cumsum(mx.softmax(ascending, axis=-1), axis=-1, reverse=True, inclusive=False)
    least = mx.where(above < top_p, ascending, ascending[..., -1:]).min(axis=-1, keepdims=True)
    return mx.where(logits < least, -mx.inf, logits)


@dataclass
class Answer:
    """The continuation of a prompt: iterate over it, once, for its tokens.

    However the iteration ends, `past` then holds exactly the tokens it lists. A token that stops
    the answer is not part of it.

    Args:
        past: What the model has read already; as much of it is reused as the prompt allows.
        mark: A length of the prompt that a later one will want to return to; nearly all, if None.
        context: Tokens that prompt and answer may have together.
        on_prefill: Called with the prompt's tokens that are read, those reused included, and all.
        cancelled: Asked before every piece of the prompt and every token.
    """

    model: Decoder
    prompt: Sequence[int]
    past: Past
    _: KW_ONLY
    sampler: Sampler = field(default_factory=sampler)
    max_tokens: int | None = None
    context: int | None = None
    stop_ids: Set[int] = frozenset()
    mark: int | None = None
    pace: Pace = field(default_factory=Pace)
    on_prefill: Callable[[int, int], None] = lambda done, total: None
    cancelled: Callable[[], bool] = lambda: False

    reason: Reason | None = field(init=False, default=None)  # why it ended, once it has
    cached: int = field(init=False, default=0)  # tokens of the prompt that were reused
    prefill_seconds: float = field(init=False, default=0.0)  # for all but the prompt's last token

    def __iter__(self) -> Iterator[Token]:
        """Read the prompt, then yield token after token.

        Raises: ValueError if the prompt is empty.
        """
        if not self.prompt:
            raise ValueError("the prompt has no tokens; one is needed to begin with")
        self.reason = self._full(0)
        if self.reason is not None:
            return
        try:
            began = perf_counter()
            whole = self._prefill()
            self.prefill_seconds = perf_counter() - began
            if whole:
                yield from self._decode()
            else:
                self.reason = "cancelled"
        except GeneratorExit:
            raise
        except BaseException:
            # Caches and tokens may have parted company.
            self.past.clear()
            raise

    def _full(self, tokens: int) -> Reason | None:
        """Why no token may follow the first `tokens` ones of the answer, if so."""
        if self.max_tokens is not None and tokens >= self.max_tokens:
            return "length"
        if self.context is not None and len(self.prompt) + tokens >= self.context:
            return "context"
        return None

    def _prefill(self) -> bool:
        """Read all of the prompt but its last token; False if that was cancelled."""
        past, last = self.past, len(self.prompt) - 1
        mark = None if past.cuttable else min(last if self.mark is None else self.mark, last)
        done = self.cached = past.rewind(self.prompt)
        while True:
            self.on_prefill(done, last + 1)
            if done == mark:
                past.mark()
            if self.cancelled():
                return False
            if done == last:
                return True
            began = perf_counter()
            end = min(done + self.pace.tokens, last)
            if mark is not None and done < mark:
                end = min(end, mark)
            self._feed(mx.array([self.prompt[done:end]]))
            mx.eval([cache.state for cache in past.caches])
            mx.clear_cache()
            past.tokens += self.prompt[done:end]
            self.pace.learn(end - done, perf_counter() - began)
            done = end

    def _decode(self) -> Iterator[Token]:
        past, total = self.past, len(self.prompt)
        before = perf_counter()
        following: mx.array | None = self._step(mx.array([self.prompt[-1]]))
        past.tokens.append(self.prompt[-1])
        count = 0
        while following is not None:
            chosen, full = following, self._full(count + 1)
            following = self._step(chosen) if full is None else None
            token = cast(int, chosen.item())
            now = perf_counter()
            if count == 0:
                self.on_prefill(total, total)
            if following is not None:
                past.tokens.append(token)
            if token in self.stop_ids:
                self.reason = "stop"
                return
            yield Token(token, now - before)
            before, count, self.reason = now, count + 1, full
            if full is None and self.cancelled():
                self.reason = "cancelled"
                return
            if count % _TIDY == 0:
                mx.clear_cache()

    def _step(self, token: mx.array) -> mx.array:
        """Hand the step after a token (1,) to the device; the token it will choose (1,)."""
        chosen = self.sampler(self._feed(token[None])[:, -1, :])
        mx.async_eval(chosen)
        return chosen

    def _feed(self, tokens: mx.array) -> mx.array:
        """Logits (1, L, V) after tokens (1, L), which are then in the caches."""
        return self.model(tokens, cache=self.past.caches)


def generation_config(folder: Path) -> dict[str, Any]:
    """generation_config.json: what a publisher recommends; empty where there is none.

    Raises: FormatError if it is no JSON object.
    """
    file = folder / "generation_config.json"
    try:
        raw = json.loads(file.read_bytes()) if file.exists() else {}
    except (OSError, ValueError, RecursionError) as error:
        raise FormatError(f"{file} cannot be read as JSON: {error}.") from error
    if not isinstance(raw, dict):
        raise FormatError(f"{file} holds a {type(raw).__name__}; an object is wanted.")
    return raw


def recommended(raw: Mapping[str, Any]) -> tuple[float, float]:
    """Temperature and top-p of a generation_config.json; greedy unless it wants to sample."""
    wants, temperature, top_p = (raw.get(k) for k in ("do_sample", "temperature", "top_p"))
    if wants is False or (wants is None and temperature is None):
        return 0.0, 1.0
    return 1.0 if temperature is None else temperature, 1.0 if top_p is None else top_p
