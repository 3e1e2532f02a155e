"""Text to tokens, of which most was seen before: a conversation is encoded anew each turn."""

import re
from array import array
from functools import lru_cache
from itertools import pairwise
from typing import Any

_KEPT = 1024  # pieces


class Encoder:
    """A tokenizer's `encode` of texts that a chat template wrote, which remembers messages.

    What lies between two of a tokenizer's markers is encoded by itself, whatever is around it, and
    templates put markers around messages. So a piece that was encoded before is looked up.
    """

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self._markers = _markers(tokenizer)
        self._piece = lru_cache(_KEPT)(self._encode)

    def __call__(self, text: str) -> list[int]:
        """The tokens of a text, of which it may begin with none that it does not have itself."""
        if self._markers is None:
            return list(self._encode(text))
        # A piece begins with its marker: what begins a text may be encoded otherwise.
        starts = [match.start() for match in self._markers.finditer(text)]
        found: list[int] = []
        for start, end in pairwise(sorted({0, *starts, len(text)})):
            found.extend(self._piece(text[start:end]))
        return found

    def _encode(self, text: str) -> array:
        return array("I", self._tokenizer.encode(text, add_special_tokens=False))


def _markers(tokenizer: Any) -> re.Pattern[str] | None:
    """What finds the tokens that part a text; None where that is not known to be safe."""
    if not tokenizer.is_fast:
        return None
    # Normalized ones are looked for later, within the pieces that the others leave.
    parting = [t for t in tokenizer.added_tokens_decoder.values() if not t.normalized]
    if not parting or any(t.lstrip or t.rstrip or t.single_word for t in parting):
        return None
    # Of those that begin at one place, the longest.
    texts = sorted((t.content for t in parting), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, texts)))
