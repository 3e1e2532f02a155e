"""Questions from before, to be asked again or changed."""

from collections.abc import Iterable


class Recall:
    """Steps back and forth through what was sent; what is being written waits at the end.

    What is changed on the way stays changed until something is sent.

    Args:
        sent: Oldest first.
    """

    def __init__(self, sent: Iterable[str] = ()):
        self._sent: list[str] = list(sent)
        self._place = len(self._sent)
        self._written: dict[int, str] = {}  # what was left in the input, by its place

    def add(self, text: str) -> str:
        """One more was sent, a repetition counts once; what waits to be written on, if anything."""
        waits = "" if self._place == len(self._sent) else self._written.get(len(self._sent), "")
        if not self._sent or self._sent[-1] != text:
            self._sent.append(text)
        self._place, self._written = len(self._sent), {}
        return waits

    def earlier(self, text: str) -> str | None:
        """The one before, given what stands in the input; None at the first."""
        return self._go(text, -1) if self._place else None

    def later(self, text: str) -> str | None:
        """The one after, at last what was being written; None if that stands there."""
        return self._go(text, 1) if self._place < len(self._sent) else None

    def _go(self, text: str, step: int) -> str:
        self._written[self._place] = text
        self._place += step
        sent = self._sent[self._place] if self._place < len(self._sent) else ""
        return self._written.get(self._place, sent)
