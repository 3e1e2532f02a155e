"""What the app and the engine say to each other: one JSON object a line, in both directions.

The app sends commands, the engine answers with events. Both are frozen dataclasses here; on the
wire each is an object whose "type" is the class's name in snake case and whose other keys are its
fields. A `Generate` is answered by `Prefill` events, `Delta` events, one `Stats`, one `Memory` and
one `Finish` (or one `Error` in place of what is left), all with its `id`; `Memory` also comes about
once a second meanwhile, and once when nothing was asked for some seconds. Unknown fields are
ignored and unknown types are an error, so that either side may grow fields.
"""

import json
import re
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from mlxarch.errors import FormatError

Channel = Literal["answer", "thinking"]
Reason = Literal["stop", "length", "context", "cancelled", "memory"]

INTERVAL = 0.05  # seconds between two deltas that a person reads


@dataclass(frozen=True, kw_only=True)
class Load:
    """Load the checkpoint in a local folder; answered by `Loading` and `Ready`, or `Error`.

    `draft` says who guesses tokens ahead: "heads" of the model's own, "lookup" in what was said
    before, "off" for nobody, or the folder of a smaller model.
    """

    path: str
    draft: str | None = None  # None: its heads, if it has any
    kv_bits: int | None = None  # 8 or 4 for keys and values; None: as they are computed
    memory: int | None = None  # bytes that the engine may take; None: what the machine recommends
    wired: int | None = None  # bytes that Metal keeps resident; None: as the system has it
    keep: str | None = None  # a folder where what was read is kept between runs; None: nowhere
    keep_bytes: int = 0  # that may lie there


@dataclass(frozen=True, kw_only=True)
class Generate:
    """Answer a conversation, oldest message first.

    A message is a dict of "role" and "content", and of what else the chat template reads
    ("reasoning_content", "tool_calls"). If the last one is the assistant's, the answer goes on
    where it ends: with the next token of it, not with a new turn.

    A content is a text or, where `Ready.images`, a list of parts: {"type": "text", "text": ...} and
    {"type": "image", "path": ..., "hash": ...}, a file and its SHA-256; without a hash it is
    whatever the file shows.

    What is None or empty is left to the model's publisher (`Ready.defaults`), else as said.
    """

    id: int
    messages: list[dict[str, Any]]
    max_tokens: int | None = None  # None: until the model stops or its context is full
    temperature: float | None = None  # else 0: greedy
    top_p: float | None = None  # else 1
    top_k: int | None = None  # else 0: all
    min_p: float | None = None  # else 0
    repetition_penalty: float | None = None  # else 1
    presence_penalty: float | None = None  # else 0
    frequency_penalty: float | None = None  # else 0
    seed: int | None = None  # None: another answer each time
    stop: list[str] = field(default_factory=list)  # texts that end the answer; not part of it
    switches: dict[str, Any] = field(default_factory=dict)  # what the chat template is told
    thinking_tokens: int | None = None  # after so many, thinking is ended for the model
    tools: list[dict[str, Any]] = field(default_factory=list)  # JSON schemas of functions
    schema: dict[str, Any] | None = None  # JSON schema that the answer has to satisfy
    logprobs: bool = False  # whether tokens come with their log-probabilities
    interval: float = INTERVAL  # seconds between deltas at least; 0 sends every token by itself


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Cancel a `Generate`, also while it prefills; what was said so far is kept."""

    id: int


@dataclass(frozen=True, kw_only=True)
class Quit:
    """End the engine."""


@dataclass(frozen=True, kw_only=True)
class Loading:
    """A checkpoint is being read."""

    path: str
    done: int  # bytes
    total: int  # bytes
    remark: str = ""  # what else takes its time, for people


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A model is loaded and waits for `Generate`."""

    name: str  # the folder's or repository's last word, for people
    architecture: str  # the product: "Nanbeige 4.1 3B", say
    parameters: int
    bytes: int  # of weights in memory
    context: int  # tokens
    device: str  # "Metal", "CUDA" or "CPU"
    seconds: float
    remark: str = ""  # what could not be done as `Load` said: one sentence, for people
    draft: str = "off"  # who guesses, in the words of `Load`; a smaller model by its name
    defaults: dict[str, float] = field(default_factory=dict)  # the publisher's, as in `Generate`
    switches: list[dict[str, Any]] = field(default_factory=list)  # see `Switch`
    thinks: bool = False  # the model can think before it answers
    tools: bool = False  # calls of tools are understood
    images: bool = False  # the model sees
    scale: dict[str, Any] = field(
        default_factory=dict
    )  # how large it sees: a `vision.pixels.Scale`
    blind: str = ""  # why it does not see: a sentence


@dataclass(frozen=True, kw_only=True)
class Switch:
    """A variable of a chat template that a person may set; in `Ready.switches` as a dict."""

    name: str  # as the template has it: "enable_thinking"
    values: list[Any]  # to choose from, the template's own default first


@dataclass(frozen=True, kw_only=True)
class Prefill:
    """The prompt is being read. `done` counts from 0 to `total` and includes `cached`.

    While one of its pictures is looked at, before its tokens are read, `looked` is not None.
    """

    id: int
    done: int  # tokens
    total: int  # tokens of the whole prompt
    cached: int  # tokens kept from the conversation so far
    looked: float | None = None  # the share of that that is done


@dataclass(frozen=True, kw_only=True)
class Delta:
    """Some more tokens and their text, which may be empty while a character is incomplete."""

    id: int
    channel: Channel
    text: str
    tokens: list[int]
    seconds: list[float]  # one for each token: since the token before it, or since prefill's end
    logprobs: list[float] = field(default_factory=list)  # one for each token, if asked for
    guessed: list[bool] = field(default_factory=list)  # of each token, where somebody guesses
    rejected: int = 0  # guesses that were wrong, since the delta before
    lengths: list[int] = field(default_factory=list)  # characters of `text` each token brought


@dataclass(frozen=True, kw_only=True)
class ToolCall:
    """The model wants a tool to be called. It is shown, not run."""

    id: int
    name: str
    arguments: str  # JSON, or what the model wrote if it is none


@dataclass(frozen=True, kw_only=True)
class Stats:
    """The figures of one answer."""

    id: int
    prompt_tokens: int
    cached_tokens: int
    prefill_seconds: float
    first_token_seconds: float  # from the command's arrival to the first token
    tokens: int  # generated
    decode_seconds: float  # of all tokens after the first
    guessed_tokens: int = 0  # ahead of the model
    right_tokens: int = 0  # of those


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Where memory stands, in bytes; `limit` is what the engine may take."""

    weights: int
    cache: int  # of the conversation's keys and values
    active: int  # all that MLX holds
    peak: int
    process: int  # resident size of the engine
    limit: int


@dataclass(frozen=True, kw_only=True)
class Finish:
    """The answer has ended: the model stopped, `max_tokens`, a full context, `Stop`, or memory."""

    id: int
    reason: Reason
    remark: str = ""  # what was wanting, and what helps: one sentence, for people


@dataclass(frozen=True, kw_only=True)
class Error:
    """A command failed. `kind` is the error's class; the engine lives on unless `fatal`."""

    id: int | None
    kind: str
    message: str
    fatal: bool = False


Command = Load | Generate | Stop | Quit
Event = Loading | Ready | Prefill | Delta | ToolCall | Stats | Memory | Finish | Error


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


_COMMANDS = (Load, Generate, Stop, Quit)
_EVENTS = (Loading, Ready, Prefill, Delta, ToolCall, Stats, Memory, Finish, Error)
_TYPES: dict[str, Any] = {_snake(kind.__name__): kind for kind in (*_COMMANDS, *_EVENTS)}


def encode(message: Command | Event) -> bytes:
    """One line, newline included; names of files that are no UTF-8 come through whole."""
    body = {"type": _snake(type(message).__name__), **vars(message)}
    return json.dumps(body, ensure_ascii=False).encode(errors="surrogatepass") + b"\n"


def decode(line: bytes) -> Command | Event:
    """The message on one line.

    Raises: FormatError if it is not a message of this protocol.
    """
    try:
        body = json.loads(line)
        kind = _TYPES[body.pop("type")]
        known = {field.name for field in fields(kind)}
        return kind(**{key: value for key, value in body.items() if key in known})
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise FormatError(f"{line[:80]!r} is no message of the engine's protocol.") from error
