"""The text of an answer token by token: each in the colour of its time, guessed ones underlined."""

from collections.abc import Iterator, Sequence
from statistics import median

from textual.content import Content

from .figures import milliseconds, own
from .lines import Line, Lines, Row
from .transcript import Turn

QUICK, USUAL, SLOW = 0.75, 1.25, 2.0  # times the median of the model's own tokens
GROUNDS = ("", " on $foreground 8%")  # by turns, so that one sees where a token ends
GUESSED = "underline $secondary"


class TokenText(Lines):
    """As the model wrote it, without Markdown."""

    def __init__(self, turn: Turn):
        super().__init__(classes="tokens")
        self.turn = turn

    def laid(self, width: int) -> Sequence[Row]:
        """A key, and the text."""
        lines = [*self._key(), Content(), *_text(self.turn).split("\n", allow_blank=True)]
        return [row for line in lines for row in Line(line).rows(width)]

    def _key(self) -> Iterator[Content]:
        seconds = own(self.turn.seconds[1:], self.turn.guessed[1:])
        middle = f"usual, about {milliseconds(median(seconds))} ms" if seconds else "usual"
        kinds = [(0.0, "quick"), (1.0, middle), (1.5, "slow"), (9.0, "over twice that")]
        parts = [Content.styled(word, colour(share)) for share, word in kinds]
        if any(self.turn.guessed):
            parts.append(Content.styled("guessed", GUESSED))
        yield Content.assemble("each token by its time: ", Content(" · ").join(parts))


def colour(share: float) -> str:
    """The style of a token that took `share` times the median."""
    if share > SLOW:
        return "bold $text-warning"
    return "$text-warning" if share > USUAL else "$text-accent" if share < QUICK else "$foreground"


def _text(turn: Turn) -> Content:
    middle = median(own(turn.seconds[1:], turn.guessed[1:]) or [0.0]) or 1.0
    start = len(turn.text) - sum(turn.lengths)
    parts: list[str | tuple[str, str]] = [turn.text[:start]]
    tokens = zip(turn.lengths, turn.seconds, turn.guessed, strict=False)
    for index, (length, seconds, guessed) in enumerate(tokens):
        if length:
            style = GUESSED if guessed else colour(seconds / middle)
            text = turn.text[start : start + length]
            parts.append((text, style + GROUNDS[index % 2]))
            start += length
    return Content.assemble(*parts)
