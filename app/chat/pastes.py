"""Long pastes, which stand in the input as one short mark until they are sent."""

import re

LINES, CHARACTERS = 8, 1000  # from which on a paste is long

_MARK = re.compile(r"\[paste \d+: [^\]\n]*\]")


class Pastes:
    """Those of one input; all of them, since what was sent may be taken back into it."""

    def __init__(self):
        self._texts: dict[str, str] = {}  # by their marks

    def taken(self, text: str) -> str:
        """What stands in the input for a paste: itself, or a mark if it is long."""
        lines = text.count("\n") + 1
        if lines < LINES and len(text) < CHARACTERS:
            return text
        what = f"{lines:,} lines" if lines > 1 else f"{len(text):,} characters"
        mark = f"[paste {len(self._texts) + 1}: {what}]"
        self._texts[mark] = text
        return mark

    def whole(self, text: str) -> str:
        """A text with the pastes in place of their marks; what only looks like one stays."""
        return _MARK.sub(lambda mark: self._texts.get(mark[0], mark[0]), text)

    def mark_before(self, text: str) -> str:
        """The mark that a text ends with, if it is one of a paste."""
        return next((mark for mark in self._texts if text.endswith(mark)), "")
