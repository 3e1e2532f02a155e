"""Which part of a growing Markdown text is worth rendering now.

A paragraph is cheap to render again with every flush, and code, a list or a table is until it is
long. Lists and tables are rendered line by line, since half a line of them looks like something
else; what is too long waits as plain text until the block is complete.
"""

import re
from enum import Enum, auto

CODE_LINES = 12
ROW_LINES = 20

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_ROW = re.compile(r" {0,3}([-*+]|\d{1,9}[.)])(\s|$)|\s*[|>]")


class Kind(Enum):
    """What the open block is made of."""

    PROSE = auto()
    CODE = auto()
    ROWS = auto()  # a list, a table or a quotation


class Blocks:
    """Follows one text as it grows; every line is looked at once."""

    def __init__(self):
        self.kind = Kind.PROSE
        self.start = 0  # of the open block
        self._next = 0  # the first line that is not complete yet
        self._fence = ""
        self._blank = True

    def ripe(self, text: str) -> tuple[int, int]:
        """How many characters of `text` are complete blocks, and how many to render now."""
        while (end := text.find("\n", self._next)) >= 0:
            self._line(text[self._next : end], end + 1)
            self._next = end + 1
        kind, start = self.kind, self.start
        if (opened := self._opens(text[self._next :])) is not None:
            kind, start = opened, self._next
        lines = text.count("\n", start)
        if kind is Kind.PROSE or (kind is Kind.CODE and lines <= CODE_LINES):
            return start, len(text)
        return start, self._next if kind is Kind.ROWS and lines <= ROW_LINES else start

    def _line(self, line: str, end: int) -> None:
        """Take a complete line, without its end."""
        if self.kind is Kind.CODE:
            mark = line.strip()
            if mark.startswith(self._fence) and not mark.strip(self._fence[0]):
                self._close(end)
        elif line.strip():
            if (opened := self._opens(line)) is not None:
                self.kind, self.start = opened, self._next
            if self.kind is Kind.CODE and (fence := _FENCE.match(line)):
                self._fence = fence[1]
            self._blank = False
        else:
            self._blank = True
            if self.kind is Kind.PROSE:
                self._close(end)

    def _opens(self, line: str) -> Kind | None:
        """The kind of block that a line, complete or not, begins; None if it goes on with one."""
        if self.kind is Kind.CODE or not line.strip():
            return None
        fence, row = _FENCE.match(line), _ROW.match(line)
        indented = line[0].isspace()
        if self.kind is Kind.ROWS and (indented or row or not (fence or self._blank)):
            return None
        kind = Kind.CODE if fence else Kind.ROWS if row else Kind.PROSE
        return kind if self._blank or kind is not self.kind else None

    def _close(self, end: int) -> None:
        self.kind, self.start, self._blank = Kind.PROSE, end, True
