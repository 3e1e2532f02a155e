"""What the engine may take of memory, and what it takes.

On a CPU that is all that the process has in memory: kernels of our own hold some that MLX does not
know of. Elsewhere it is what MLX holds, in use or kept for use.
"""

import resource
import sys
from collections.abc import Callable, Sequence
from functools import cache
from time import perf_counter
from typing import Any

import mlx.core as mx
import psutil

from mlxarch import backend, plan
from mlxarch.errors import DoesNotFit

from ..allocator import trim

_EVERY = 0.1  # seconds between two looks while tokens come
_NEAR = 0.05  # of the limit
_SPARE = 1 << 26  # bytes that a machine is left with
_SAFE = 0.5  # of the room that a piece of the prompt may take: it takes more than the last one
_HELP = "shorten the conversation, keep it in fewer bits (--kv-bits), or allow more (--memory)"


class Watch:
    """Keeps an engine within its memory: one for each model that is loaded.

    Args:
        limit: Bytes that it may take; None: what the machine recommends.
    """

    def __init__(self, limit: int | None = None):
        self.limit = backend.memory_limit() if limit is None else limit
        self.shed: Callable[[], object] = lambda: None  # lets go of what can be done without
        self.needed = self._allowed = 0  # bytes, once there were too few
        self._peak = self._done = 0
        # Bytes before a piece of the prompt: MLX's, the process's, and the process's ever.
        self._before = (0, 0, 0)
        self._each = 0  # bytes that a token of the prompt takes while it is read
        self._next = 0.0  # when to look again
        mx.set_memory_limit(self.limit)
        mx.set_cache_limit(min(_usual_cache(), self.limit))

    @property
    def used(self) -> int:
        """Bytes that are taken now."""
        if backend.device() == "CPU":
            return process()
        return mx.get_active_memory() + mx.get_cache_memory()

    @property
    def room(self) -> int:
        """Bytes that may still be taken."""
        room = self.limit - self.used
        return min(room, backend.free_memory() - _SPARE) if backend.device() == "CPU" else room

    @property
    def peak(self) -> int:
        """Bytes that MLX held at the worst moment."""
        self._peak = max(self._peak, mx.get_peak_memory())
        return self._peak

    def settle(self, weights: int) -> None:
        """Weights are in memory: of what is left, MLX may keep half for use."""
        mx.set_cache_limit(min(_usual_cache(), max(0, self.limit - weights) // 2))

    def begin(self, tokens: int, cache: int, held: int, seeing: int = 0) -> None:
        """A prompt is to be read.

        Args:
            cache: Bytes that the caches have after it, at least.
            held: Bytes of these that are there.
            seeing: Bytes that its pictures take meanwhile.

        Raises: DoesNotFit if its keys and values will certainly not fit.
        """
        self.needed = self._done = 0
        wanted = max(0, cache - held) + seeing
        if not wanted or wanted <= self.room:
            return
        self.needed = self.used + wanted
        pictures = " and to see its pictures" if seeing else ""
        raise DoesNotFit(
            f"The conversation's {tokens:,} tokens need {(cache + seeing) / 1e9:.2f} GB for what "
            f"the model remembers of them{pictures}, {self.needed / 1e9:.2f} GB with all else; the "
            f"engine may take {self.limit / 1e9:.2f} GB: {_HELP}."
        )

    def read(self, done: int) -> None:
        """So many tokens of the prompt are read: learn what the last of them took."""
        if self._done < done:
            own, whole, highest = self._before
            took = max(mx.get_peak_memory() - own, process() - whole)
            if _highest() > highest:
                took = max(took, _highest() - whole)
            # Memory that is used anew does not show.
            self._each = max(1, took // (done - self._done), 3 * self._each // 4)
        self._peak = self.peak
        mx.reset_peak_memory()
        self._done, self._before = done, (mx.get_active_memory(), process(), _highest())

    def ceiling(self) -> int:
        """How many tokens of a prompt there is room to read at once."""
        if not self._each:
            return 1 << 30
        fitting = max(1, int(_SAFE * self.room / self._each))
        return 1 << (fitting.bit_length() - 1)

    def short(self, *, reading: bool) -> bool:
        """Whether there is not enough for the next token; looked at now and then."""
        if not reading and perf_counter() < self._next:
            return False
        ahead = self._each if reading else 0
        room = self.room
        if room < ahead:
            self.shed()
            give_back()
            room = self.room
        # Near the limit, every token counts.
        self._next = perf_counter() + (_EVERY if room > self.limit * _NEAR else 0)
        if room >= ahead:
            return False
        self.needed, self._allowed = self.used + ahead, self.used + room
        return True

    def failed(self) -> None:
        """Memory was refused, though there seemed to be enough."""
        self._allowed = self.used
        self.needed = self._allowed + max(self._each, 1)

    def words(self) -> str:
        """Why an answer ended for want of memory, and what helps."""
        return (
            f"The engine would need {self.needed / 1e9:.2f} GB of memory and may take "
            f"{self._allowed / 1e9:.2f} GB: {_HELP}."
        )


def cache_bytes(model: Any, tokens: int, kv_bits: int | None) -> int:
    """Bytes that a model's caches have at least after so many tokens."""
    layers: Sequence[plan.Layer] = [plan.layer(block) for block in model.layers]
    size = backend.compute_dtype(mx.bfloat16).size
    whole = sum(layer.mixer.cache_bytes(tokens, size) for layer in layers)
    return whole if kv_bits is None else whole * kv_bits // (8 * size)


def ran_out(error: Exception) -> bool:
    """Whether an error says that there was no memory left."""
    words = str(error).lower()
    return isinstance(error, MemoryError) or any(
        each in words for each in ("out of memory", "insufficient memory", "[malloc", "::malloc")
    )


def give_back() -> None:
    """Return what was taken and is not in use to the system."""
    mx.clear_cache()
    trim()


def process() -> int:
    """Bytes that this process has in memory."""
    return psutil.Process().memory_info().rss


def _highest() -> int:
    """Bytes that this process had in memory at the worst moment ever."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@cache
def _usual_cache() -> int:
    """Bytes that MLX keeps for use where nobody says otherwise."""
    usual = mx.set_cache_limit(0)
    mx.set_cache_limit(usual)
    return usual
