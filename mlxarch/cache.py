"""What a model remembers of a conversation, and how to go back in it.

A new prompt mostly begins as the last one did. What both share need not be read again if the caches
can be brought back to where they part: plain ones are cut there, a window that is full and a
recurrent state cannot be cut, so what they were is kept at points that are worth returning to.
"""

from collections.abc import Sequence

from . import backend
from .compat import KVCache
from .decoder import Decoder
from .marks import Marks
from .rollback import cut, parts

_SHARE = 16  # of this machine's memory, one part may go to what is kept for going back


def shared_length(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two sequences have in common at their beginning."""
    a, b = list(a), list(b)
    same, end = 0, min(len(a), len(b))
    while same < end:
        # Comparing runs is a hundred times as quick as comparing tokens.
        half = (same + end + 1) // 2
        if a[same:half] == b[same:half]:
            same = half
        else:
            end = half - 1
    return same


class Past:
    """The tokens a model has read, and each layer's cache of them.

    Whoever runs the model on `caches` appends what it fed to `tokens`.

    Args:
        kv_bits: 8 or 4 for keys and values, where that can be; None keeps them as they are.
        room: Bytes for what is kept for going back; None: a small part of this machine's memory.
    """

    def __init__(self, model: Decoder, kv_bits: int | None = None, room: int | None = None):
        self.model, self.kv_bits = model, kv_bits
        self._room = backend.memory_limit() // _SHARE if room is None else room
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.tokens: list[int] = []
        self.caches = self.model.make_cache(self.kv_bits)
        self._marks, self._passing = Marks(self._room), Marks(0)

    @property
    def nbytes(self) -> int:
        """Memory of the caches and of what is kept for going back."""
        return sum(part.nbytes for part in [*self.caches, self._marks, self._passing])

    @property
    def cuttable(self) -> bool:
        """Whether any end can be cut off at any time, so that marks are of no use."""
        return all(isinstance(part, KVCache) for part in parts(self.caches))

    @property
    def marked(self) -> list[int]:
        """How many tokens lie before each point that is kept for `rewind` to return to."""
        return self._marks.lengths

    def mark(self, *, passing: bool = False) -> None:
        """Remember this point for `rewind` to return to.

        Args:
            passing: Only until the next such mark.
        """
        length = len(self.tokens)
        if self.cuttable or length in (0, *self.marked):
            return
        if passing:
            self._passing = Marks(0)
            self._passing.add(self.caches, length, at_once=False)
        else:
            self._marks.add(self.caches, length)

    def rewind(self, prompt: Sequence[int]) -> int:
        """Forget all that is not the beginning of `prompt`; how many tokens are kept.

        At least one token of the prompt is left to be read, for its logits.
        """
        shared = shared_length(self.tokens, prompt[:-1])
        if shared < len(self.tokens) and not self._cut(shared) and not self._return(shared):
            self.clear()
        return len(self.tokens)

    def _cut(self, length: int) -> bool:
        """Cut everything after `length` tokens off, if every cache can."""
        surplus = len(self.tokens) - length
        if not all(cache.is_trimmable() for cache in self.caches):
            return False
        cut(self.caches, surplus)
        del self.tokens[length:]
        for marks in (self._marks, self._passing):
            marks.forget(length)
        return True

    def _return(self, length: int) -> bool:
        """Return to the last mark within the first `length` tokens, if there is one."""
        marks = max(self._passing, self._marks, key=lambda marks: marks.nearest(length))
        nearest = marks.nearest(length)
        if nearest == 0:
            return False
        marks.restore(self.caches, nearest, len(self.tokens) - nearest)
        del self.tokens[nearest:]
        for each in (self._marks, self._passing):
            each.forget(nearest)
        return True
