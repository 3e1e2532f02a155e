"""Whether a model fits a machine and how quick it may be, from headers and configs alone.

What a model takes is its weights as MLX holds them, the cache of a conversation, and what reading a
prompt needs meanwhile. How quick it may be is told from the bytes that each token is computed from:
no machine reads them faster than its memory gives them, so that is a bound and not a promise.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal

from mlxarch import backend

if TYPE_CHECKING:
    from mlxarch.anatomy import Anatomy, Size

Verdict = Literal["fits", "tight", "too large"]
Source = Literal["headers", "config", "catalogue"]

EASY = 0.9  # of the memory: above it other programs are pushed aside
CONTEXT = 32_768  # tokens, where nobody says otherwise
READABLE = 10  # tokens a second, about twice what a person reads
_GROUP = 64  # numbers of a packed cache that share a scale and a bias
STEP = 256  # tokens by which caches grow


@dataclass(frozen=True)
class Machine:
    """What a model may take, and how quick memory is."""

    device: str
    memory: int  # bytes that a model may take
    source: str  # who says so
    bandwidth: float  # bytes a second
    itemsize: int  # bytes of a number that is computed with

    @classmethod
    def here(cls, memory: int | None = None) -> Machine:
        """This one; with another amount of memory, if given."""
        device = backend.device()
        source = {
            "Metal": "Metal's recommended working set",
            "CUDA": "the GPU's memory",
            "CPU": "this machine's memory",
        }[device]
        return cls(
            device,
            memory or backend.memory_limit(),
            "--memory" if memory else source,
            backend.bandwidth(),
            4 if device == "CPU" else 2,
        )


@dataclass(frozen=True, kw_only=True)
class Form:
    """One way to keep a model's weights: floats, in whatever type is computed with, and the rest.

    `floats` and `packed` are of all weights, `floats_read` and `packed_read` of those that one
    token is computed from.
    """

    name: str  # "bf16", "4 bits"
    repo: str = ""  # where it can be had; empty where it has to be made
    disk: int  # bytes
    floats: int  # numbers
    packed: int = 0  # bytes
    floats_read: int
    packed_read: int = 0

    @classmethod
    def of(cls, name: str, anatomy: Anatomy, floats: int, packed: int, disk: int) -> Form:
        """That of a checkpoint; a token is computed from the share that config.json tells."""
        share = anatomy.active.parameters / anatomy.total.parameters
        if packed:
            share = _packed(anatomy.active) / _packed(anatomy.total)
        read = int(floats * share), int(packed * share)
        return cls(
            name=name,
            disk=disk,
            floats=floats,
            packed=packed,
            floats_read=read[0],
            packed_read=read[1],
        )


def plain(anatomy: Anatomy, name: str = "bf16") -> Form:
    """A model in floats, as far as its config tells."""
    total = anatomy.total
    return Form.of(name, anatomy, total.parameters, 0, total.bf16)


def in_4_bits(anatomy: Anatomy) -> Form:
    """A model in 4 bits, as far as its config tells."""
    total, packed = anatomy.total, _packed(anatomy.total)
    floats = total.parameters - packed + 2 * packed // 64
    return Form.of("4 bits", anatomy, floats, packed // 2, total.bits4)


def _packed(size: Size) -> int:
    """How many of the parameters are in groups of 64 in the 4-bit format of `Size`.

    Each saves 16 bits and costs 4, and 32 for a group.
    """
    return round((size.bf16 - size.bits4) / (2 - 1 / 2 - 4 / 64))


@dataclass(frozen=True, kw_only=True)
class Cache:
    """What a conversation is remembered in: numbers, which may be packed, and bytes."""

    fixed: int = 0  # numbers however long it is: full windows, the last inputs
    per_token: int = 0  # numbers of each further token
    state: int = 0  # bytes, always in float32

    @classmethod
    def of(cls, anatomy: Anatomy) -> Cache:
        """That of a model, with all windows full."""
        mixers = [layer.mixer for layer in anatomy.layers]
        return cls(
            fixed=sum(m.tail + (m.window or 0) * m.per_token for m in mixers),
            per_token=sum(m.per_token for m in mixers if not m.window),
            state=sum(m.state for m in mixers),
        )

    def bytes(self, tokens: int, itemsize: int, kv_bits: int | None = None) -> int:
        """Of a conversation of so many tokens."""
        number = itemsize if kv_bits is None else kv_bits / 8 + 2 * itemsize / _GROUP
        held = -(-tokens // STEP) * STEP
        return self.state + int((self.fixed + held * self.per_token) * number)


@dataclass(frozen=True, kw_only=True)
class Model:
    """What is asked of a machine."""

    name: str
    family: str
    parameters: int
    active: int  # of them, for one token
    context: int  # tokens, at most
    cache: Cache
    activations: int  # numbers of one token while a layer reads it
    forms: tuple[Form, ...]
    vision: int = 0  # numbers of a tower, which is loaded with the first picture
    folder: str = ""  # where it lies, if it is here
    source: Source = "headers"  # of what is told here
    reason: str = ""  # why the catalogue was asked instead of the hub


def activations(anatomy: Anatomy) -> int:
    """Numbers of one token that are there at once at most while a prompt is read."""
    widest = 0
    for layer in anatomy.layers:
        mlp, mixer = layer.mlp, layer.mixer
        experts = max(1, mlp.chosen) * mlp.hidden + mlp.shared
        widest = max(widest, 3 * experts, 4 * mixer.heads * mixer.head_dim)
    return 4 * anatomy.dim + widest


@dataclass(frozen=True)
class Fit:
    """One form of a model on one machine, with a context of so many tokens."""

    model: Model
    form: Form
    machine: Machine
    tokens: int
    kv_bits: int | None = None

    @classmethod
    def all(
        cls, model: Model, machine: Machine, tokens: int | None = None, kv_bits: int | None = None
    ) -> list[Fit]:
        """All forms of a model; with a context of 32k, or what it holds, if none is asked for."""
        most = min(tokens or CONTEXT, model.context)
        return [cls(model, form, machine, most, kv_bits) for form in model.forms]

    @property
    def weights(self) -> int:
        """Bytes of the weights in memory."""
        return self.form.floats * self.machine.itemsize + self.form.packed

    @property
    def vision(self) -> int:
        """Bytes that come on top with the first picture."""
        return self.model.vision * self.machine.itemsize

    @property
    def read(self) -> int:
        """Bytes that one token is computed from: of the weights, and the whole cache."""
        form = self.form
        return form.floats_read * self.machine.itemsize + form.packed_read + self.cache

    @cached_property
    def cache(self) -> int:
        """Bytes of the conversation's cache."""
        return self.model.cache.bytes(self.tokens, self.machine.itemsize, self.kv_bits)

    @cached_property
    def working(self) -> int:
        """Bytes that reading a prompt takes besides, by a rule of thumb."""
        return (
            min(backend.prompt_tokens(), self.tokens)
            * self.model.activations
            * self.machine.itemsize
        )

    @property
    def together(self) -> int:
        """Bytes of all of it."""
        return self.weights + self.cache + self.working

    @property
    def verdict(self) -> Verdict:
        """Whether that is there."""
        if self.together > self.machine.memory:
            return "too large"
        return "fits" if self.together <= EASY * self.machine.memory else "tight"

    @property
    def most_tokens(self) -> int:
        """The longest context that fits beside the weights; 0 if not even they do."""
        model, itemsize = self.model, self.machine.itemsize
        left = self.machine.memory - self.weights - self.working
        least = model.cache.bytes(0, itemsize, self.kv_bits)
        each = (model.cache.bytes(STEP, itemsize, self.kv_bits) - least) / STEP
        if left < least:
            return 0
        return model.context if not each else min(model.context, int((left - least) / each))

    @property
    def tokens_per_second(self) -> float:
        """What memory allows at most when the context is full; decoding comes to a part of it."""
        return self.machine.bandwidth / self.read

    def as_json(self) -> dict[str, Any]:
        """All figures: bytes, tokens, tokens a second."""
        return {
            "model": self.model.name,
            "family": self.model.family,
            "folder": self.model.folder,
            "source": self.model.source,
            "reason": self.model.reason,
            "form": self.form.name,
            "parameters": self.model.parameters,
            "active": self.model.active,
            "disk": self.form.disk,
            "repo": self.form.repo,
            "weights": self.weights,
            "cache": self.cache,
            "working": self.working,
            "vision": self.vision,
            "together": self.together,
            "memory": self.machine.memory,
            "verdict": self.verdict,
            "context": self.tokens,
            "most_context": self.most_tokens,
            "at_most_tokens_per_second": self.tokens_per_second,
            "bandwidth": self.machine.bandwidth,
            "device": self.machine.device,
        }


def best(fits: Iterable[Fit]) -> Fit:
    """The form to suggest: what keeps most of a model, has room, and is read at a person's pace.

    Where memory is too slow for that the smallest is, and also where nothing has room.
    """
    given = list(fits)
    roomy = [fit for fit in given if fit.verdict != "too large"]
    quick = [fit for fit in roomy if fit.tokens_per_second >= READABLE]
    weights = attrgetter("weights")
    return max(quick, key=weights) if quick else min(roomy or given, key=weights)
