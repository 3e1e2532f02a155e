"""What a model remembers of a conversation, and how to go back in it.

A new prompt mostly begins as the last one did. What both share need not be read again if the caches
can be brought back to where they part: plain ones are cut there, a window that is full and a
recurrent state cannot be cut, so what they were is kept at points that are worth returning to. Who
goes back for good, after an edit, may come back: what was read on the other branch is kept as well.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from . import backend
from .branch import Branch, shared_length
from .compat import KVCache
from .decoder import Decoder
from .marks import Marks
from .rollback import parts

__all__ = ["Past", "shared_length"]

_SHARE = 16  # of this machine's memory, one part may go to marks, and one to other branches
_OTHERS = 4  # branches
_WORTH = 32  # tokens of a prompt that are worth keeping on a branch of their own


class Past:
    """The tokens a model has read, and each layer's cache of them.

    Whoever runs the model on `caches` appends what it fed to `tokens`.

    Args:
        kv_bits: 8 or 4 for keys and values, where that can be; None keeps them as they are.
        room: Bytes for marks to go back to, and as many for other branches; None: a small part of
            this machine's memory.
    """

    def __init__(self, model: Decoder, kv_bits: int | None = None, room: int | None = None):
        self.model, self.kv_bits = model, kv_bits
        self._room = backend.memory_limit() // _SHARE if room is None else room
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.now = self.empty()
        self._others: list[Branch] = []  # the last one was left last

    @property
    def tokens(self) -> list[int]:
        """What was read."""
        return self.now.tokens

    @tokens.setter
    def tokens(self, tokens: list[int]) -> None:
        self.now.tokens = tokens

    @property
    def caches(self) -> list[Any]:
        """Each layer's cache of the tokens."""
        return self.now.caches

    @property
    def nbytes(self) -> int:
        """Memory of the caches and of what is kept for going back."""
        return _bytes([self.now, *self._others])

    @property
    def cuttable(self) -> bool:
        """Whether any end can be cut off at any time, so that marks are of no use."""
        return all(isinstance(part, KVCache) for part in parts(self.caches))

    @property
    def marked(self) -> list[int]:
        """How many tokens lie before each point that is kept for `rewind` to return to."""
        return self.now.marks.lengths

    def mark(self, *, passing: bool = False) -> None:
        """Remember this point for `rewind` to return to.

        Args:
            passing: Only until the next such mark.
        """
        length = len(self.tokens)
        if self.cuttable or length in (0, *self.marked):
            return
        if passing:
            self.now.passing = Marks(0)
            self.now.passing.add(self.caches, length, at_once=False)
        else:
            self.now.marks.add(self.caches, length)

    def rewind(self, prompt: Sequence[int], lasting: int | None = None) -> int:
        """Go to where `prompt` is known the furthest; how many tokens are kept.

        At least one token of the prompt is left to be read, for its logits.

        Args:
            lasting: So many tokens of it are worth keeping when another branch is read; None: all.
        """
        tokens = prompt[:-1]
        best, length = self._best(tokens)
        left: list[Branch] = []
        if best is not self.now:
            self._others.remove(best)
            left = [self.now] if self.now.tokens else []
        if min(best.asked, len(best.tokens)) - length >= _WORTH and _bytes([best]) <= self._room:
            left.append(best)
            self.now = best.fork(length)
        else:
            best.go_back(length)
            self.now = best
        self.now.asked = len(tokens) if lasting is None else lasting
        if left:
            self._others += left
            while len(self._others) > _OTHERS or _bytes(self._others) > self._room:
                del self._others[0]
        return length

    def shed(self) -> None:
        """Forget what is not needed to go on: other branches, and all marks but the last."""
        self._others = []
        self.now.marks.shed()

    def reach(self, prompt: Sequence[int]) -> int:
        """How many tokens of a prompt `rewind` would keep."""
        return self._best(prompt[:-1])[1]

    def held(self, prompt: Sequence[int]) -> int:
        """Bytes of that, about."""
        best, length = self._best(prompt[:-1])
        return sum(cache.nbytes for cache in best.caches) * length // max(1, len(best.tokens))

    def empty(self) -> Branch:
        """A branch that has read nothing."""
        return Branch(self.model, self.kv_bits, self._room)

    def take(self, branch: Branch) -> None:
        """Know of a branch that was read elsewhere."""
        self._others.append(branch)

    def _best(self, tokens: Sequence[int]) -> tuple[Branch, int]:
        """The branch that has most of some tokens, and how many."""
        # The first of equals: the one that was used last.
        lengths = [(each, each.reach(tokens)) for each in (self.now, *reversed(self._others))]
        return max(lengths, key=lambda pair: pair[1])


def _bytes(branches: Iterable[Branch]) -> int:
    """Bytes of what branches hold; they may share some."""
    found = {id(array): array.nbytes for branch in branches for array in branch.arrays}
    return sum(found.values())
