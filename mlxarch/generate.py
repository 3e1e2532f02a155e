"""One token at a time, with its seconds.

The next step is handed to the device before the last token is read from it, so that the device
never waits for Python.   Source: the pipeline is that of mlx-lm, generate.py.
"""

from collections.abc import Callable, Generator, Iterator, Sequence, Set
from dataclasses import KW_ONLY, dataclass, field
from time import perf_counter
from typing import Literal, NamedTuple, cast

import mlx.core as mx

from .cache import Past, shared_length
from .constrain import Constraint
from .decoder import Decoder
from .marks import places
from .pace import Pace
from .rollback import drafting, step_back
from .sampling import History, Sampling
from .speculate import Drafter
from .stake import Stake
from .vision.images import Images

Reason = Literal["stop", "length", "context", "cancelled", "memory"]

# How many tokens go by before the memory that steps of another size left behind is given back, and
# the answer is marked: who goes on with it may spell its end in other tokens.
_TIDY = 256


class Token(NamedTuple):
    """A generated token."""

    id: int
    seconds: float  # since the token before it, or since prefill's end
    logprob: float | None = None  # natural, of the model itself: before temperature and the like
    guessed: bool = False  # ahead of the model


@dataclass(frozen=True)
class Chosen:
    """Tokens (L,) that follow from logits, and their log-probabilities (L,) where wanted."""

    tokens: mx.array
    logprobs: mx.array | None = None

    @property
    def arrays(self) -> list[mx.array]:
        """What is to be evaluated."""
        return [self.tokens] if self.logprobs is None else [self.tokens, self.logprobs]

    def logprob(self, i: int = 0) -> float | None:
        """That of one of them, if it is known."""
        return None if self.logprobs is None else cast(float, self.logprobs[i].item())


@dataclass
class Answer:
    """The continuation of a prompt: iterate over it, once, for its tokens.

    However the iteration ends, `past` then holds exactly the tokens it lists. A token that stops
    the answer is not part of it.

    Args:
        past: What the model has read already; as much of it is reused as the prompt allows.
        images: The pictures in the prompt, where it has the token that stands for one.
        drafter: Guesses tokens, so that several are computed at once; changes nothing else.
        constraint: What the answer has to satisfy.
        logprobs: Whether tokens come with their log-probabilities.
        mark: A length of the prompt that a later one will want to return to; nearly all, if None.
            Where messages end is marked besides: their last token is one that stops an answer.
        said: How many of the prompt's last tokens are the answer's own: penalties count them so.
        context: Tokens that prompt and answer may have together.
        on_prefill: Called with the prompt's tokens that are read, those reused included, and all;
            first with those reused.
        on_look: Called while a picture is looked at with the share of that that is done.
        cancelled: Asked before every piece of the prompt and every token, and in between meanwhile.
    """

    model: Decoder
    prompt: Sequence[int]
    past: Past
    _: KW_ONLY
    images: Images | None = None
    sampling: Sampling = field(default_factory=Sampling)
    drafter: Drafter | None = None
    constraint: Constraint | None = None
    logprobs: bool = False
    max_tokens: int | None = None
    said: int = 0
    context: int | None = None
    stop_ids: Set[int] = frozenset()
    mark: int | None = None
    pace: Pace = field(default_factory=Pace)
    stake: Stake = field(default_factory=Stake)
    on_prefill: Callable[[int, int], None] = lambda done, total: None
    on_look: Callable[[float], None] = lambda share: None
    cancelled: Callable[[], bool] = lambda: False

    reason: Reason | None = field(init=False, default=None)  # why it ended, once it has
    cached: int = field(init=False, default=0)  # tokens of the prompt that were reused
    prefill_seconds: float = field(init=False, default=0.0)  # for all but the prompt's last token
    guessed: int = field(init=False, default=0)  # tokens that the drafter guessed
    right: int = field(init=False, default=0)  # those that were

    def __iter__(self) -> Generator[Token]:
        """Read the prompt, then yield token after token.

        Raises: ValueError if the prompt is empty.
        """
        if not self.prompt:
            raise ValueError("the prompt has no tokens; one is needed to begin with")
        self.reason = self._full(0)
        if self.reason is not None:
            return
        self._history = None
        if self.sampling.remembers:
            vocab, asked = self.model.embed.weight.shape[0], len(self.prompt) - self.said
            self._history = History.of(self.prompt[:asked], vocab, self.prompt[asked:])
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
        # What was read tells pictures apart, the prompt does not.
        named = self.prompt if self.images is None else self.images.named(self.prompt)
        done = self.cached = past.rewind(named, self.mark)
        mark = last if self.mark is None else min(self.mark, last)
        marks = [] if past.cuttable else places(self.prompt, done, mark, self.stop_ids, self.pace)
        if self.drafter is not None:
            self.drafter.begin(self.prompt[: done + 1])
        while True:
            self.on_prefill(done, last + 1)
            if done in marks:
                past.mark()
            if self.cancelled():
                return False
            if done == last:
                return True
            end = min(done + self.pace.next(), last, *(mark for mark in marks if mark > done))
            if self.images is not None:
                if not self.images.see(done, end, self._looking):
                    return False
                # What that took is not what tokens take.
                self.on_prefill(done, last + 1)
            began = perf_counter()
            states = self._feed(mx.array([self.prompt[done:end]]))
            if self.drafter is not None:
                mx.eval(states)
                self.drafter.observe(self.prompt[done + 1 : end + 1], states)
            mx.eval([cache.state for cache in past.caches])
            mx.clear_cache()
            past.tokens += named[done:end]
            self.pace.learn(end - done, perf_counter() - began)
            done = end

    def _looking(self, share: float) -> bool:
        self.on_look(share)
        return not self.cancelled()

    def _decode(self) -> Iterator[Token]:
        """Rounds of guesses while they pay, and plain steps."""
        self._count, self._last, self._before = 0, self.prompt[-1], perf_counter()
        self.stake.begin()
        wanted = self._wanted()
        while self.reason is None:
            if wanted or self.constraint is not None:
                yield from self._round(wanted)
                wanted = self._wanted()
            else:
                wanted = yield from self._plain()

    def _wanted(self) -> int:
        """How many tokens to guess."""
        return 0 if self.drafter is None else min(self.stake.choose(), self.drafter.most)

    def _plain(self) -> Generator[Token, None, int]:
        """One token after another, until guesses are wanted; returns how many."""
        past, wanted, first, began = self.past, 0, self._count, self._before
        following = self._step(mx.array([self._last]), self._count)
        past.tokens.append(self._last)
        while following is not None:
            (chosen, states), count = following, self._count + 1
            if self._history is not None:
                self._history = self._history.after(chosen.tokens)
            full = self._full(count)
            wanted = 0 if full else self._wanted()
            more = full is None and not wanted
            following = self._step(chosen.tokens, count) if more else None
            token = cast(int, chosen.tokens.item())
            seconds = self._lap()
            if self.drafter is not None:
                self.drafter.observe([token], states)
            if following is not None:
                past.tokens.append(token)
            if token in self.stop_ids:
                self.reason = "stop"
                break
            self._count, self._last, self.reason = count, token, full
            yield Token(token, seconds, chosen.logprob())
            if full is None and self.cancelled():
                self.reason = "cancelled"
            if self.reason is not None:
                break
            if count % _TIDY == 0:
                mx.clear_cache()
                past.mark(passing=True)
        if self._count > first:
            # Steps overlap: what one takes is known from all of them.
            self.stake.learn(0, 0, (self._before - began) / (self._count - first))
        return wanted

    def _lap(self) -> float:
        """Seconds since the last lap."""
        before, self._before = self._before, perf_counter()
        if self._count == 0:
            self.on_prefill(len(self.prompt), len(self.prompt))
        return self._before - before

    def _step(self, token: mx.array, count: int) -> tuple[Chosen, mx.array]:
        """Hand the step after a token (1,) to the device: number `count` of the answer, states."""
        states = self._feed(token[None])
        logits = self.model.logits(states)[0]
        chosen = self._choose(logits, len(self.prompt) + count, self._history)
        mx.async_eval(*chosen.arrays)
        return chosen, states

    def _choose(
        self,
        logits: mx.array,
        position: int,
        history: History | None,
        allowed: mx.array | None = None,
    ) -> Chosen:
        """The tokens that follow from logits (L, V), of those allowed (L, V)."""
        possible = logits if allowed is None else mx.where(allowed, logits, -mx.inf)
        tokens = self.sampling.choose(possible, position, history)
        if not self.logprobs:
            return Chosen(tokens)
        logits = logits.astype(mx.float32)
        own = mx.take_along_axis(logits, tokens[:, None], axis=-1)[:, 0]
        return Chosen(tokens, own - mx.logsumexp(logits, axis=-1))

    def _round(self, wanted: int) -> Iterator[Token]:
        """The token that is next and guesses of those after it, computed at once."""
        past, drafter, constraint, allowed = self.past, self.drafter, self.constraint, None
        position, room = len(self.prompt) + self._count, self._room(self._count)
        guesses = mx.array([], mx.int32)
        if drafter is not None and (wanted := min(wanted, room - 1)) > 0:
            guesses = drafter.draft(wanted, position)
        fed = mx.concatenate([mx.array([self._last]), guesses])
        with drafting(past.caches):
            states = self._feed(fed[None])
        history = self._history
        if history is not None and guesses.size:
            history = history.joined(history.after(guesses))
        logits = self.model.logits(states)[0]
        if constraint is not None:
            # The device computes while the grammar is followed.
            mx.async_eval(logits, guesses)
            allowed = constraint.allowed(cast(list[int], guesses.tolist()))
        chosen = self._choose(logits, position, history, allowed)
        mx.eval(*chosen.arrays, guesses)
        said = cast(list[int], chosen.tokens.tolist())
        right = shared_length(said, cast(list[int], guesses.tolist()))
        said = said[: right + 1]
        # What is fed and said; a token that ends the answer is not fed.
        ends = next((i for i, token in enumerate(said) if token in self.stop_ids), None)
        kept = min(1 + (right if ends is None else min(ends + 1, right)), room)
        step_back(past.caches, fed.size - kept)
        past.tokens += [self._last, *said[: kept - 1]]
        if drafter is not None:
            drafter.observe(said[:kept], states[:, :kept])
        if constraint is not None:
            for token in said[:ends]:
                constraint.take(token)
        if self._history is not None:
            self._history = self._history.after(mx.array(said))[-1:]
        self.guessed, self.right = self.guessed + guesses.size, self.right + right
        seconds = self._lap()
        self.stake.learn(guesses.size, right, seconds)
        for i, token in enumerate(said):
            if token in self.stop_ids:
                self.reason = "stop"
                return
            self._count, self._last = self._count + 1, token
            self.reason = self._full(self._count)
            yield Token(token, seconds / len(said), chosen.logprob(i), guessed=i < right)
            if self.reason is None and self.cancelled():
                self.reason = "cancelled"
            if self.reason is not None:
                return
        if self._count % _TIDY < len(said):
            mx.clear_cache()
            past.mark(passing=True)

    def _room(self, tokens: int) -> int:
        """How many tokens may follow the first `tokens` ones of the answer."""
        rooms = [
            limit - tokens - used
            for limit, used in ((self.max_tokens, 0), (self.context, len(self.prompt)))
            if limit is not None
        ]
        return min(rooms, default=1 << 30)

    def _feed(self, tokens: mx.array) -> mx.array:
        """States (1, L, D), normed, after tokens (1, L), which are then in the caches."""
        return self.model.norm(self.model.hidden(tokens, self.past.caches, self.images))
