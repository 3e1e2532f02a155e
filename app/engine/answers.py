"""How a conversation is answered: prompt, tokens, text, and the events that tell of them."""

import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, replace
from time import perf_counter
from typing import Any

from mlxarch.cache import Past
from mlxarch.constrain import Constraint
from mlxarch.errors import ContextFull, FormatError
from mlxarch.generate import Answer, Token
from mlxarch.sampling import Sampling
from mlxarch.speculate import drafter
from mlxarch.stake import Stake
from mlxarch.thinking import Bounded
from mlxarch.tokenizer import Prompt, Tokenizer
from mlxarch.vision.images import Images

from .deltas import Deltas
from .loaded import Loaded
from .parts import parted
from .pieces import Call, Piece, Pieces
from .protocol import Event, Finish, Generate, Prefill, Stats, ToolCall
from .watch import cache_bytes, give_back, ran_out

_PULSE = 1.0  # seconds between two events of memory

Emit = Callable[[Event], None]


def respond(loaded: Loaded, command: Generate, emit: Emit, stopped: Callable[[], bool]) -> None:
    """Carry out a `Generate`.

    Raises: MlxarchError in place of what was left to do.
    """
    arrived = told = perf_counter()
    watch, reading, reached = loaded.watch, True, 0
    cached: int | None = None

    def cancelled() -> bool:
        nonlocal told
        if perf_counter() - told >= _PULSE:
            told = perf_counter()
            emit(loaded.memory())
        return stopped() or watch.short(reading=reading)

    # These must not know the answer, which knows them: what it holds would stay until Python looks
    # for garbage.
    def read(done: int, total: int) -> None:
        nonlocal reading, cached, reached
        cached = done if cached is None else cached
        reading, reached = done < total, done
        if reading:
            watch.read(done)
        emit(Prefill(id=command.id, done=done, total=total, cached=cached))

    def look(share: float) -> None:
        done, total = reached, len(prompt.tokens)
        emit(Prefill(id=command.id, done=done, total=total, cached=cached or 0, looked=share))

    prompt, images = _prompt(loaded, command)
    reader = loaded.tokenizer.reader(thinking=prompt.thinking, lost=prompt.lost)
    ending = _ending(loaded.tokenizer, command)
    if prompt.thinking and command.thinking_tokens == 0:
        prompt = replace(prompt, tokens=[*prompt.tokens, *ending], thinking=False)
        for token in ending:
            reader.read(token)
    _make_room(loaded, prompt.tokens, images)
    sampling = _sampling(loaded.defaults, command)
    # A smaller model would have to see, too.
    sees = images is None or not isinstance(loaded.draft, Past)
    guesser = drafter(loaded.draft if sees else "off", loaded.model, sampling)
    constraint = None if command.schema is None else _constraint(loaded, command.schema, prompt)
    answer = Answer(
        loaded.model,
        prompt.tokens,
        loaded.past,
        images=images,
        sampling=sampling,
        drafter=guesser,
        # Guesses fare differently where a grammar has its say.
        stake=loaded.stake if constraint is None else Stake(),
        constraint=constraint,
        logprobs=command.logprobs,
        max_tokens=command.max_tokens,
        context=loaded.context,
        stop_ids=loaded.tokenizer.stop_ids,
        mark=prompt.lasting,
        pace=loaded.pace,
        on_prefill=read,
        on_look=look,
        cancelled=cancelled,
    )
    said = Bounded(answer, lambda: reader.channel == "thinking", command.thinking_tokens, ending)
    pieces = Pieces(command.stop, loaded.tokenizer.call_markers)
    wrong = (lambda: said.guessed - said.right) if guesser else None
    deltas = Deltas(command.id, command.interval, emit, wrong)
    first_token_seconds, seconds = 0.0, list[float]()

    def show(found: Iterable[Piece | Call]) -> None:
        for piece in found:
            if isinstance(piece, Call):
                deltas.send()
                for call in loaded.tokenizer.calls(piece.text, command.tools):
                    emit(ToolCall(id=command.id, name=call.name, arguments=call.arguments))
                continue
            if piece.token is not None:
                seconds.append(piece.token.seconds)
            deltas.add(piece)

    # Whether the text decides how an answer goes on.
    watched = bool(command.stop) or command.thinking_tokens is not None
    tokens = iter(said)
    try:
        for group in _groups(tokens, lambda: watched or deltas.due):
            first_token_seconds = first_token_seconds or perf_counter() - arrived
            for token in group:
                show(pieces.take(Piece(*reader.read(token.id), token)))
            if deltas.due:
                deltas.send()
            if pieces.stopped:
                break
    except (MemoryError, RuntimeError) as error:
        if not ran_out(error):
            raise
        watch.failed()
    tokens.close()
    if not pieces.stopped:
        show(pieces.take(Piece(reader.channel, reader.rest(), None)))
        show(pieces.end())
    deltas.send()
    emit(
        Stats(
            id=command.id,
            prompt_tokens=len(prompt.tokens),
            cached_tokens=answer.cached,
            prefill_seconds=answer.prefill_seconds,
            first_token_seconds=first_token_seconds,
            tokens=len(seconds),
            decode_seconds=sum(seconds[1:]),
            guessed_tokens=said.guessed,
            right_tokens=said.right,
        )
    )
    emit(loaded.memory())
    reason = "stop" if pieces.stopped else "memory" if watch.needed else said.reason
    assert reason is not None
    emit(Finish(id=command.id, reason=reason, remark=watch.words() if watch.needed else ""))


def _groups(tokens: Iterable[Token], due: Callable[[], bool]) -> Iterator[list[Token]]:
    """Tokens up to the one after which something is due, and what is left in the end.

    A step pushes this program's code out of the processor's caches, and it is slow until it is
    back: so text is made of many tokens at once. `tests/benchmarks/chat.py` measures a chat so.
    """
    group = list[Token]()
    try:
        for token in tokens:
            group.append(token)
            if due():
                whole, group = group, []
                yield whole
    finally:
        if group:
            yield group


def _prompt(loaded: Loaded, command: Generate) -> tuple[Prompt, Images | None]:
    """The conversation as the model reads it, and what it sees.

    Raises: ContextFull if it is too long; FormatError if the chat template refuses it, or a picture
        cannot be shown.
    """
    messages, files = parted(command.messages)
    if files and loaded.sight is None:
        raise FormatError(loaded.blind)
    pictures = [loaded.sight.look(*each) for each in files] if loaded.sight else []
    prompt = loaded.tokenizer.prompt(messages, tools=command.tools, switches=command.switches)
    images = None
    if loaded.sight and pictures:
        tokens, images = loaded.sight.place(prompt.tokens, pictures)
        # All pictures are asked, none is said.
        more = len(tokens) - len(prompt.tokens)
        turn, lasting = prompt.turn + more, prompt.lasting + more
        prompt = replace(prompt, tokens=tokens, turn=turn, lasting=lasting)
    if len(prompt.tokens) > loaded.context:
        raise ContextFull(
            f"The conversation has {len(prompt.tokens):,} tokens; the model's context holds "
            f"{loaded.context:,}. Shorten it, or begin a new one."
        )
    return prompt, images


def _make_room(loaded: Loaded, prompt: list[int], images: Images | None) -> None:
    """Have memory for a prompt, and what is kept of it.

    Raises: DoesNotFit if that cannot be.
    """
    watch, past = loaded.watch, loaded.past
    prompt = prompt if images is None else images.named(prompt)
    whole = cache_bytes(loaded.model, len(prompt), past.kv_bits)

    def seeing() -> int:
        if loaded.sight is None or images is None:
            return 0
        return loaded.sight.needs(images.largest(past.reach(prompt)))

    def missing() -> int:
        return max(0, whole - past.held(prompt)) + seeing() - watch.room

    if missing() > 0:
        loaded.shed()
        give_back()
    # What was read of another conversation may be what is in the way.
    if 0 < missing() <= past.nbytes - past.held(prompt):
        past.clear()
        give_back()
    watch.begin(len(prompt), whole, past.held(prompt), seeing())
    loaded.pace.ceiling = watch.ceiling
    if loaded.kept is not None:
        loaded.kept.load(past, prompt)


def _constraint(loaded: Loaded, schema: dict[str, Any], prompt: Prompt) -> Constraint:
    """What makes an answer satisfy a schema."""
    return Constraint(
        schema,
        loaded.tokenizer,
        loaded.model.embed.weight.shape[0],
        thinking=prompt.thinking,
        opening=prompt.tokens[prompt.turn :],
    )


def _sampling(defaults: dict[str, float], command: Generate) -> Sampling:
    """How tokens are chosen: as asked, else as the publisher recommends."""
    names = {each.name for each in fields(Sampling)} - {"seed"}
    asked = {name: value for name in names if (value := getattr(command, name)) is not None}
    wanted: dict[str, Any] = {**defaults, **asked}
    return Sampling(**wanted, seed=secrets.randbits(32) if command.seed is None else command.seed)


def _ending(tokenizer: Tokenizer, command: Generate) -> list[int]:
    """Tokens that end thinking, less the blank lines after its marker if a schema has its say."""
    ending, marker = tokenizer.end_of_thinking, list(tokenizer.think_end)
    if command.schema is None or not marker:
        return ending
    ends = range(len(marker), len(ending) + 1)
    return ending[: next((e for e in ends if ending[e - len(marker) : e] == marker), None)]
