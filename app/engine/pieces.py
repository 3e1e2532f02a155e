"""The text of an answer, piece by piece, less what ends it and the calls of tools within it.

Both are found in the text, whatever the borders of tokens. While what was said last may be the
beginning of such a text, it is held back with its tokens.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from mlxarch.generate import Token

from .protocol import Channel


class Piece(NamedTuple):
    """A token and the text that is complete with it; without a token, what was held back."""

    channel: Channel
    text: str
    token: Token | None


class Call(NamedTuple):
    """What the model wrote between the markers of a call."""

    text: str


class Pieces:
    """Takes an answer as it comes, and gives it back with its calls apart.

    Args:
        stop: Texts of which the first one ends the answer, and is not part of it.
        call: What begins and ends a call; nothing at its end if it goes on until the answer ends.
    """

    def __init__(self, stop: Sequence[str] = (), call: tuple[str, str] | None = None):
        self._begin, self._end = call or ("", "")
        self._wanted = [*filter(None, stop), *filter(None, [self._begin])]
        self._held: list[Piece] = []
        self._call: str | None = None  # what was written of one so far
        self._trim = False
        self.stopped = False  # one of the texts was found

    def take(self, piece: Piece) -> Iterator[Piece | Call]:
        """What is decided with one more piece."""
        if self.stopped:
            return
        if piece.channel == "thinking":
            yield from self._release()
            yield piece
        elif self._call is not None:
            yield from self._within(piece)
        else:
            yield from self._search(piece)

    def end(self) -> Iterator[Piece | Call]:
        """What is left: no more pieces come."""
        yield from self._release()
        if self._call is not None:
            yield Call(self._call)
            self._call = None

    def _search(self, piece: Piece) -> Iterator[Piece | Call]:
        if self._trim:
            # The blank lines between a call and what follows are the call's.
            piece = piece._replace(text=piece.text.lstrip("\n"))
            self._trim = not piece.text
        self._held.append(piece)
        text = "".join(each.text for each in self._held)
        found = [(at, wanted) for wanted in self._wanted if (at := text.find(wanted)) >= 0]
        if not found:
            yield from self._release(len(text) - self._open(text))
            return
        at, wanted = min(found, key=lambda each: (each[0], -len(each[1])))
        yield from self._release(at)
        kept = at - len(text) + sum(len(each.text) for each in self._held)
        (first, *others), self._held = self._held, []
        if wanted != self._begin:
            self.stopped = True
            if kept:
                yield first._replace(text=first.text[:kept])
            return
        # Its tokens were said, and what they say is shown as a call.
        yield first._replace(text=first.text[:kept])
        for each in others:
            yield each._replace(text="")
        self._call = ""
        yield from self._within(Piece("answer", text[at + len(wanted) :], None))

    def _within(self, piece: Piece) -> Iterator[Piece | Call]:
        """A piece of a call."""
        assert self._call is not None
        self._call += piece.text
        at = self._call.find(self._end) if self._end else -1
        if piece.token is not None:
            yield piece._replace(text="")
        if at >= 0:
            call, rest = self._call[:at], self._call[at + len(self._end) :]
            self._call, self._trim = None, True
            yield Call(call)
            yield from self._search(Piece("answer", rest, None))

    def _open(self, text: str) -> int:
        """How many characters at a text's end may be the beginning of something wanted."""
        return max(
            (
                size
                for wanted in self._wanted
                for size in range(1, min(len(wanted), len(text) + 1))
                if text.endswith(wanted[:size])
            ),
            default=0,
        )

    def _release(self, length: int | None = None) -> Iterator[Piece]:
        """Give back the pieces that end within so many characters; all of them, if not told."""
        end = 0
        for i, piece in enumerate(self._held):
            end += len(piece.text)
            if length is not None and end > length:
                yield from self._given(i)
                return
        yield from self._given(len(self._held))

    def _given(self, count: int) -> Iterator[Piece]:
        given, self._held = self._held[:count], self._held[count:]
        yield from (piece for piece in given if piece.token is not None or piece.text)
