"""What the engine does: load a checkpoint, answer conversations. All of it in one thread."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import mlx.core as mx
import psutil

from mlxarch import backend, checkpoint, kv, registry, shards
from mlxarch.cache import Past
from mlxarch.compat import count_parameters
from mlxarch.decoder import Decoder
from mlxarch.errors import ConfigError, DoesNotFit
from mlxarch.generate import Answer, Pace, Token
from mlxarch.sampling import Sampling, generation_config, recommended
from mlxarch.speculate import WITHOUT_MODEL, Stake, drafter
from mlxarch.tokenizer import Tokenizer

from .. import model as models
from ..loading import check_same_tokens, needed
from .protocol import (
    Channel,
    Command,
    Delta,
    Event,
    Finish,
    Generate,
    Load,
    Loading,
    Memory,
    Prefill,
    Ready,
    Stats,
)

Emit = Callable[[Event], None]


@dataclass(frozen=True)
class _Loaded:
    """A model and what belongs to it."""

    model: Decoder
    tokenizer: Tokenizer
    past: Past
    pace: Pace
    draft: str | Past  # who guesses, see `speculate.drafter`
    stake: Stake
    context: int  # tokens
    temperature: float  # the publisher's
    top_p: float
    bytes: int  # of weights


class Worker:
    """Carries out commands in the thread that made it; that thread owns MLX."""

    def __init__(self, emit: Emit, stopped: Callable[[int], bool]):
        self._emit, self._stopped = emit, stopped
        self._loaded: _Loaded | None = None

    def handle(self, command: Command) -> None:
        """Carry out a `Load` or `Generate`; the others are not for a worker.

        Raises: MlxarchError in place of what was left to do.
        """
        if isinstance(command, Load):
            smaller = None if command.draft in WITHOUT_MODEL else Path(command.draft)
            self._load(Path(command.path), command.draft, smaller, command.kv_bits)
        elif isinstance(command, Generate):
            self._generate(command)

    def _load(self, folder: Path, draft: str, smaller: Path | None, kv_bits: int | None) -> None:
        began = perf_counter()
        # There may not be room for two.
        self._loaded = None
        mx.clear_cache()
        mx.reset_peak_memory()
        raw = shards.read_config(folder)
        architecture = registry.find(raw)
        self._emit(Loading(path=str(folder), done=0, total=needed(folder, smaller)))
        tokenizer = Tokenizer(folder)
        if smaller is not None:
            check_same_tokens(smaller, folder, tokenizer)
        model = self._read(folder, heads=draft == "heads")
        past = None if smaller is None else Past(self._read(smaller, heads=False))
        temperature, top_p = recommended(generation_config(folder))
        loaded = self._loaded = _Loaded(
            model,
            tokenizer,
            Past(model, kv_bits),
            Pace(),
            past or draft,
            Stake(),
            context=architecture.model.Config.from_hub(raw).context,
            temperature=temperature,
            top_p=top_p,
            bytes=_bytes(model) + (_bytes(past.model) if past else 0),
        )
        self._emit(
            Ready(
                name=models.name(folder),
                architecture=architecture.name,
                parameters=count_parameters(model),
                bytes=loaded.bytes,
                context=loaded.context,
                device=backend.device(),
                seconds=perf_counter() - began,
                remark=kv.remark(loaded.past.caches, kv_bits) if kv_bits else "",
            )
        )
        self._emit(_memory(loaded))

    def _read(self, folder: Path, *, heads: bool) -> Decoder:
        remark = "Building the CPU's kernels, this once" if backend.to_be_built() else ""

        def progress(done: int, total: int) -> None:
            self._emit(Loading(path=str(folder), done=done, total=total, remark=remark))

        return checkpoint.load(folder, progress=progress, heads=heads)

    def _generate(self, command: Generate) -> None:
        arrived = perf_counter()
        if (loaded := self._loaded) is None:
            raise ConfigError("No model is loaded; load one first.")
        prompt = loaded.tokenizer.prompt(command.messages)
        if len(prompt.tokens) > loaded.context:
            raise DoesNotFit(
                f"The conversation has {len(prompt.tokens):,} tokens; the model's context holds "
                f"{loaded.context:,}. Shorten it, or begin a new one."
            )
        sampling = Sampling(
            loaded.temperature if command.temperature is None else command.temperature,
            loaded.top_p if command.top_p is None else command.top_p,
            seed=secrets.randbits(32) if command.seed is None else command.seed,
        )
        answer = Answer(
            loaded.model,
            prompt.tokens,
            loaded.past,
            sampling=sampling,
            drafter=drafter(loaded.draft, loaded.model, sampling),
            stake=loaded.stake,
            logprobs=command.logprobs,
            max_tokens=command.max_tokens,
            context=loaded.context,
            stop_ids=loaded.tokenizer.stop_ids,
            mark=prompt.turn,
            pace=loaded.pace,
            on_prefill=lambda done, total: self._emit(
                Prefill(id=command.id, done=done, total=total, cached=answer.cached)
            ),
            cancelled=lambda: self._stopped(command.id),
        )
        reader = loaded.tokenizer.reader(thinking=prompt.thinking)
        deltas = _Deltas(command.id, command.interval, self._emit)
        first_token_seconds, seconds = 0.0, []
        for token in answer:
            if not seconds:
                first_token_seconds = perf_counter() - arrived
            seconds.append(token.seconds)
            channel, text = reader.read(token.id)
            deltas.add(channel, text, token)
        deltas.end(reader.channel, reader.rest())
        self._emit(
            Stats(
                id=command.id,
                prompt_tokens=len(prompt.tokens),
                cached_tokens=answer.cached,
                prefill_seconds=answer.prefill_seconds,
                first_token_seconds=first_token_seconds,
                tokens=len(seconds),
                decode_seconds=sum(seconds[1:]),
                guessed_tokens=answer.guessed,
                right_tokens=answer.right,
            )
        )
        self._emit(_memory(loaded))
        assert answer.reason is not None
        self._emit(Finish(id=command.id, reason=answer.reason))


class _Deltas:
    """Gathers tokens into a `Delta` every now and then; the first one leaves at once."""

    def __init__(self, answer: int, interval: float, emit: Emit):
        self._answer, self._interval, self._emit = answer, interval, emit
        self._sent = float("-inf")  # when
        self._channel: Channel = "answer"
        self._text, self._tokens = "", list[Token]()

    def add(self, channel: Channel, text: str, token: Token) -> None:
        """One more token."""
        if channel != self._channel:
            self._send()
        self._channel = channel
        self._text += text
        self._tokens.append(token)
        if perf_counter() - self._sent >= self._interval:
            self._send()

    def end(self, channel: Channel, rest: str) -> None:
        """No more tokens; only text that was held back."""
        if rest and channel != self._channel:
            self._send()
            self._channel = channel
        self._text += rest
        self._send()

    def _send(self) -> None:
        if self._tokens or self._text:
            self._emit(
                Delta(
                    id=self._answer,
                    channel=self._channel,
                    text=self._text,
                    tokens=[token.id for token in self._tokens],
                    seconds=[token.seconds for token in self._tokens],
                    logprobs=[t.logprob for t in self._tokens if t.logprob is not None],
                )
            )
            self._text, self._tokens = "", []
            self._sent = perf_counter()


def _bytes(model: Decoder) -> int:
    """Bytes of a model's weights."""
    return sum(array.nbytes for array in checkpoint.parameters(model).values())


def _memory(loaded: _Loaded) -> Memory:
    return Memory(
        weights=loaded.bytes,
        cache=loaded.past.nbytes,
        active=mx.get_active_memory(),
        peak=mx.get_peak_memory(),
        process=psutil.Process().memory_info().rss,
        limit=backend.memory_limit(),
    )
