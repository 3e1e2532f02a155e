"""Long pastes, which stand in the input as one short mark until they are sent."""

import re

LINES, CHARACTERS = 8, 1000  # from which on a paste is long

_MARK = re.compile(r"\[paste (\d+): [^\]\n]*\]")


class Pastes:
    """Those of one input."""

    def __init__(self):
        self._texts: list[str] = []

    def taken(self, text: str) -> str:
        """What stands in the input for a paste: itself, or a mark if it is long."""
        lines = text.count("\n") + 1
        if lines < LINES and len(text) < CHARACTERS:
            return text
        self._texts.append(text)
        what = f"{lines:,} lines" if lines > 1 else f"{len(text):,} characters"
        return f"[paste {len(self._texts)}: {what}]"

    def whole(self, text: str) -> str:
        """A text with the pastes in place of their marks; what only looks like one stays."""
        return _MARK.sub(self._unfold, text)

    def mark_before(self, text: str) -> str:
        """The mark that a text ends with, if it is one of a paste."""
        found = list(_MARK.finditer(text))
        mark = found[-1] if found else None
        return mark[0] if mark and mark.end() == len(text) and self._known(mark) else ""

    def clear(self) -> None:
        """Forget them."""
        self._texts.clear()

    def _known(self, mark: re.Match[str]) -> bool:
        return 0 < int(mark[1]) <= len(self._texts)

    def _unfold(self, mark: re.Match[str]) -> str:
        return self._texts[int(mark[1]) - 1] if self._known(mark) else mark[0]
