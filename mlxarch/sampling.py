"""How the next token is chosen from its logits.

Every position draws with noise of its own, made from the seed and the position alone. So an answer
depends on its seed, and not on how many tokens were computed at once: what is drafted and verified
is chosen exactly as it would have been one by one.

Source: noise for all to share, arXiv:2408.07978, by the Gumbel-max trick; temperature, then top-k,
top-p and min-p as in transformers, generation/logits_process.py.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from .errors import FormatError
from .files import read_json

_RANGES: dict[str, Callable[[float], bool]] = {
    "temperature": lambda x: 0 <= x < inf,
    "top_p": lambda x: 0 < x <= 1,
    "top_k": lambda x: x >= -1 and x % 1 == 0,
    "min_p": lambda x: 0 <= x <= 1,
    "repetition_penalty": lambda x: 0 < x < inf,
    "presence_penalty": lambda x: -inf < x < inf,
    "frequency_penalty": lambda x: -inf < x < inf,
}
_DRAWN = {"temperature", "top_p", "top_k", "min_p"}  # of use only where tokens are drawn


@dataclass(frozen=True)
class Sampling:
    """What is wanted of an answer's tokens; the likeliest one at temperature 0.

    Penalties: repetition divides or multiplies the logits of all tokens before, the prompt's too;
    presence and frequency are taken off the logits of the answer's own, once or each time.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0  # 0: all
    min_p: float = 0.0  # of the likeliest token's probability
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0

    @property
    def remembers(self) -> bool:
        """Whether what came before changes the logits."""
        return (self.repetition_penalty, self.presence_penalty, self.frequency_penalty) != (1, 0, 0)

    def choose(self, logits: mx.array, first: int, history: "History | None" = None) -> mx.array:
        """The tokens (L,) that follow from logits (L, V), each given those before it.

        Args:
            first: Position of the first of them in the conversation.
            history: What came before each row; needed where `remembers`.
        """
        if self.remembers and history is not None:
            logits = self._penalised(logits.astype(mx.float32), history)
        if self.temperature == 0:
            return logits.argmax(axis=-1)
        scores = self.scores(logits)
        noise = [_noise(scores.shape[-1], self.seed, first + i) for i in range(scores.shape[0])]
        return (scores + mx.stack(noise)).argmax(axis=-1)

    def scores(self, logits: mx.array) -> mx.array:
        """Log-probabilities (L, V) that are drawn from, up to a constant; -inf is never drawn."""
        scores = logits.astype(mx.float32) / self.temperature
        if 0 < self.top_k < scores.shape[-1]:
            least = mx.topk(scores, self.top_k, axis=-1).min(axis=-1, keepdims=True)
            scores = mx.where(scores < least, -mx.inf, scores)
        if self.top_p < 1:
            scores = _nucleus(scores, self.top_p)
        if self.min_p > 0:
            least = scores.max(axis=-1, keepdims=True) + mx.log(mx.array(self.min_p))
            scores = mx.where(scores < least, -mx.inf, scores)
        return scores

    def _penalised(self, logits: mx.array, history: "History") -> mx.array:
        if self.repetition_penalty != 1:
            penalty = mx.array(self.repetition_penalty)
            worse = mx.where(logits > 0, logits / penalty, logits * penalty)
            logits = mx.where(history.seen, worse, logits)
        said = history.counts
        return logits - self.frequency_penalty * said - self.presence_penalty * (said > 0)


@dataclass(frozen=True)
class History:
    """What came before each of L positions."""

    prompt: mx.array  # (V,) bool: the prompt's tokens
    counts: mx.array  # (L, V) int32: how often the answer has said each token

    @classmethod
    def of(cls, prompt: Sequence[int], vocab: int, said: Sequence[int] = ()) -> "History":
        """Before the first token of an answer, or before what follows `said`."""
        seen = mx.zeros((vocab,), dtype=mx.bool_)
        seen[mx.array(list(prompt))] = True
        counts = np.bincount(np.array(said, dtype=np.int64), minlength=vocab)
        return cls(seen, mx.array(counts.astype(np.int32))[None])

    @property
    def seen(self) -> mx.array:
        """(L, V) bool: what the prompt or the answer has."""
        return self.prompt | (self.counts > 0)

    def after(self, tokens: mx.array) -> "History":
        """Before each of the positions that follow tokens (L,) said one after another."""
        each = mx.arange(self.counts.shape[-1]) == tokens[:, None]
        return History(self.prompt, self.counts[-1:] + mx.cumsum(each.astype(mx.int32), axis=0))

    def __getitem__(self, rows: slice) -> "History":
        """Some of the positions."""
        return History(self.prompt, self.counts[rows])

    def joined(self, following: "History") -> "History":
        """The positions of both, one after the other."""
        return History(self.prompt, mx.concatenate([self.counts, following.counts]))


def _noise(vocab: int, seed: int, position: int) -> mx.array:
    """Gumbel noise (V,) of one position."""
    key = mx.array([seed & 0xFFFFFFFF, position], dtype=mx.uint32)
    return mx.random.gumbel((vocab,), key=key)


def _nucleus(scores: mx.array, top_p: float) -> mx.array:
    """Only the likeliest tokens (L, V) that together have a probability of `top_p`."""
    ascending = mx.sort(scores, axis=-1)
    above = mx.cumsum(mx.softmax(ascending, axis=-1), axis=-1, reverse=True, inclusive=False)
    least = mx.where(above < top_p, ascending, ascending[..., -1:]).min(axis=-1, keepdims=True)
    return mx.where(scores < least, -mx.inf, scores)


def generation_config(folder: Path) -> dict[str, Any]:
    """generation_config.json: what a publisher recommends; empty where there is none.

    Raises: FormatError if it is no JSON object.
    """
    try:
        return read_json(folder / "generation_config.json")
    except FileNotFoundError:
        return {}


def recommended(raw: Mapping[str, Any]) -> dict[str, float]:
    """What a generation_config.json recommends, in the words of `Sampling`.

    Temperature 0 where its publisher does not want tokens to be drawn, or says nothing; how they
    are drawn if somebody else wants it is kept.

    Raises: FormatError if a number is none, or out of its range.
    """
    found = {}
    for name, fits in _RANGES.items():
        value = raw.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not fits(value):
            raise FormatError(
                f"{name} in generation_config.json is {value!r}, out of its range. Correct it "
                "there, or delete the line."
            )
        found[name] = value
    if raw.get("do_sample") is False or (raw.get("do_sample") is None and not _DRAWN & set(found)):
        found["temperature"] = 0.0
    elif "temperature" not in found:
        found["temperature"] = 1.0
    return found
