"""Questions from before, to be asked again or changed."""

from collections.abc import Iterable


class Recall:
    """Steps back and forth through what was sent; what is being written waits at the end.

    Args:
        sent: Oldest first.
    """

    def __init__(self, sent: Iterable[str] = ()):
        self._sent: list[str] = list(sent)
        self._place = len(self._sent)
        self._writing = ""

    def add(self, text: str) -> None:
        """One more was sent; a repetition counts once."""
        if not self._sent or self._sent[-1] != text:
            self._sent.append(text)
        self._place, self._writing = len(self._sent), ""

    def earlier(self, text: str) -> str | None:
        """The one before, given what stands in the input; None at the first."""
        if self._place == 0:
            return None
        if self._place == len(self._sent):
            self._writing = text
        self._place -= 1
        return self._sent[self._place]

    def later(self) -> str | None:
        """The one after, at last what was being written; None if that stands there."""
        if self._place == len(self._sent):
            return None
        self._place += 1
        return self._writing if self._place == len(self._sent) else self._sent[self._place]
