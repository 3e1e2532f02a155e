"""Drafts: cheap guesses of what follows, for the model to verify several tokens at once.

A guess is right if the model would have chosen the same, with the same noise where it samples. So
what is said does not depend on who drafts, nor on how much: a bad draft costs time and nothing
else.   Source: arXiv:2211.17192; guesses verified with shared noise, arXiv:2408.07978.
"""

from collections.abc import Sequence
from typing import Any, Protocol, cast

import mlx.core as mx

from .cache import Past, shared_length
from .compat import RotatingKVCache
from .decoder import Decoder
from .rollback import cut, step_back
from .sampling import Sampling

_PIECE = 512  # tokens of a prompt that a smaller model reads at once, and heads read at all
_SHARE = 16  # tokens that heads read, at most, as a multiple of the layers that each has beside it
_RUNS = (4, 3, 2)  # tokens that must have occurred before for what followed them to be a guess


class Drafter(Protocol):
    """Guesses what follows the tokens that were verified."""

    most: int  # tokens worth guessing at once

    def begin(self, tokens: Sequence[int]) -> None:
        """Forget the answer before; these tokens of the prompt need not be read again."""
        ...

    def observe(self, tokens: Sequence[int], states: mx.array) -> None:
        """Take note of verified tokens, which follow all before, and of the states behind them.

        Args:
            tokens: The n tokens that followed from `states`.
            states: (1, n, D), normed: what the model made of the n tokens before each.
        """
        ...

    def draft(self, count: int, position: int) -> mx.array:
        """At most `count` guesses (k,) of what follows, the first of them at `position`."""
        ...


def drafter(who: "str | Past | Lookup", model: Decoder, sampling: Sampling) -> Drafter | None:
    """Who guesses for a model: "heads" of its own, if it has any, "lookup", "off" for nobody.

    A smaller model is given by what it has read, a lookup that is to last by itself.
    """
    if isinstance(who, Lookup):
        return who
    if isinstance(who, Past):
        return Smaller(who, sampling, model.embed.weight.shape[0])
    if who == "heads" and model.mtp:
        return Heads(model, sampling)
    return Lookup() if who == "lookup" else None


class Heads:
    """A model's own heads for multi-token prediction.

    Head number j sees, for each position i, the state that the head before it made there, and
    token i + 1 + j. Its last j rows rest on guesses: they are taken back before the next draft.
    Where more is asked for than there are heads, the last one goes on with its own states.

    Source: arXiv:2412.19437, section 2.2.
    """

    def __init__(self, model: Decoder, sampling: Sampling):
        assert model.mtp, "this model has no heads"
        self._model, self._sampling, self._heads = model, sampling, model.mtp
        self._arrays = self._heads[0].arrays
        # Verified rows that a head begins with: quick to read, next to a few tokens of an answer.
        self._reach = min(_PIECE, max(1, _SHARE * len(model.layers) // len(model.mtp)))
        self.begin([])
        # What single tokens push out of a window cannot be brought back.
        goes_on = not isinstance(self._caches[-1], RotatingKVCache)
        self.most = max(4, len(self._heads)) if goes_on else len(self._heads)

    def begin(self, tokens: Sequence[int]) -> None:
        """See `Drafter`."""
        self._caches: list[Any] = [head.make_cache() for head in self._heads]
        # Verified states that a head has yet to see, the last of them for good, and those before.
        self._waiting: list[list[Any]] = [[] for _ in self._heads]
        self._tokens: list[int] = []  # what followed from each state
        self._used = self._beyond = 0  # heads of the last draft, and rows beyond the last head's

    def observe(self, tokens: Sequence[int], states: mx.array) -> None:
        """See `Drafter`."""
        self._wait(0, self._arrays.asarray(states))
        self._tokens += tokens

    def draft(self, count: int, position: int) -> mx.array:
        """See `Drafter`."""
        self._take_back()
        guesses: list[Any] = []
        rows = guessed = None
        for j, head in enumerate(self._heads[:count]):
            rows = self._rows(j, guessed)
            if rows is None:
                break
            known = self._tokens[len(self._tokens) - rows.shape[1] + j :]
            following = self._arrays.concatenate([self._arrays.array(known), *guesses])
            rows = head(rows, self._embed(following), self._caches[j])
            verified = rows.shape[1] - j
            if j + 1 < len(self._heads):
                self._wait(j + 1, rows[:, :verified])
                guessed = rows[:, verified:]
            guesses.append(self._choose(j, rows, position + j))
            self._used = j + 1
        while rows is not None and len(self._heads) <= len(guesses) < min(count, self.most):
            rows = self._heads[-1](rows[:, -1:], self._embed(guesses[-1]), self._caches[-1])
            guesses.append(self._choose(-1, rows, position + len(guesses)))
            self._beyond += 1
        if not guesses:
            return mx.array([], dtype=mx.int32)
        return mx.array(self._arrays.concatenate(guesses))

    def _wait(self, j: int, states: Any) -> None:
        """Keep verified states (1, n, D) until head j is asked; it begins anew with too many."""
        waiting = self._waiting[j]
        waiting.append(states)
        if sum(rows.shape[1] for rows in waiting) > 2 * self._reach:
            latest = self._join(waiting)[:, -self._reach :]
            for k in range(j, len(self._heads)):
                self._caches[k], self._waiting[k] = self._heads[k].make_cache(), []
            self._waiting[j] = [latest]

    def _rows(self, j: int, guessed: Any) -> Any:
        """What head j reads (1, n, D): what waits for it, and what rests on guesses.

        None if that is nothing but guesses. The last state that is verified waits on: the token
        with it is a guess.
        """
        waiting = [*self._waiting[j], guessed] if j else self._waiting[j]
        rows = self._join(waiting) if waiting else None
        if rows is None or rows.shape[1] <= j:
            return None
        self._waiting[j] = [rows[:, -j : -j + 1 or None]] if j else []
        return rows[:, -self._reach :] if self._caches[j].empty() else rows

    def _take_back(self) -> None:
        """Forget the rows that rest on guesses."""
        if self._beyond:
            cut([self._caches[-1]], self._beyond)
        for j in range(self._used):
            step_back([self._caches[j]], j)
        self._beyond = self._used = 0

    def _join(self, rows: list[Any]) -> Any:
        return self._arrays.concatenate(rows, axis=1)

    def _embed(self, tokens: Any) -> Any:
        """tokens (n,) -> (1, n, D)."""
        return self._model.embed(tokens)[None] * self._model.embed_scale

    def _choose(self, j: int, states: Any, position: int) -> Any:
        """The guess (1,) that follows from the last of a head's states (1, n, D)."""
        state, own = states[:, -1:], self._heads[j].head
        logits = self._model.logits(mx.array(state)) if own is None else own(state)
        if self._sampling.temperature:
            logits = mx.array(logits)
        return self._arrays.asarray(self._sampling.choose(logits[0], position))


class Smaller:
    """A smaller model that knows the same tokens.

    Args:
        past: What it has read already; it stays what it was from one answer to the next.
        vocab: Tokens that the larger one knows; each may have rows beyond the tokenizer's.
    """

    most = 4

    def __init__(self, past: Past, sampling: Sampling, vocab: int):
        self._past, self._sampling, self._vocab = past, sampling, vocab
        self._tokens: list[int] = []

    def begin(self, tokens: Sequence[int]) -> None:
        """See `Drafter`."""
        self._tokens = list(tokens)
        self._read()

    def observe(self, tokens: Sequence[int], states: mx.array) -> None:
        """See `Drafter`."""
        self._tokens += tokens
        if len(tokens) > self.most + 1:  # a piece of the prompt
            self._read()
            self._past.mark()

    def draft(self, count: int, position: int) -> mx.array:
        """See `Drafter`."""
        self._read()
        past, last = self._past, self._tokens[-1]
        past.mark(passing=True)
        token, guesses = mx.array([last]), []
        for i in range(count):
            logits = past.model(token[None], cache=past.caches)[0, -1:, : self._vocab]
            token = self._sampling.choose(logits, position + i)
            guesses.append(token)
        drafted = mx.concatenate(guesses)
        past.tokens += [last, *cast(list[int], drafted.tolist())[:-1]]
        return drafted

    def _read(self) -> None:
        """Read all tokens but the last."""
        past = self._past
        for start in range(past.rewind(self._tokens), len(self._tokens) - 1, _PIECE):
            piece = self._tokens[start : min(start + _PIECE, len(self._tokens) - 1)]
            past.model.hidden(mx.array([piece]), past.caches)
            mx.eval([cache.state for cache in past.caches])
            past.tokens += piece


class Lookup:
    """What followed the last time that the last few tokens occurred: code, quotations, lists."""

    most = 8

    def __init__(self):
        self._tokens: list[int] = []
        self._follows: dict[tuple[int, ...], int] = {}  # where what followed a run begins

    def begin(self, tokens: Sequence[int]) -> None:
        """See `Drafter`."""
        kept = shared_length(self._tokens, tokens)
        del self._tokens[kept:]
        self._add(tokens[kept:])

    def observe(self, tokens: Sequence[int], states: mx.array) -> None:
        """See `Drafter`."""
        self._add(tokens)

    def _add(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            end = len(self._tokens)
            for run in _RUNS:
                self._follows[tuple(self._tokens[-run:])] = end
            self._tokens.append(token)

    def draft(self, count: int, position: int) -> mx.array:
        """See `Drafter`."""
        for run in _RUNS:
            start = self._follows.get(tuple(self._tokens[-run:]))
            # What was begun with before is still known, if not where else it occurred.
            known = start is not None and self._tokens[start - run : start] == self._tokens[-run:]
            if known and start < len(self._tokens):
                return mx.array(self._tokens[start : start + count], dtype=mx.int32)
        return mx.array([], dtype=mx.int32)
