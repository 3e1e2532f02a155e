"""Tokens to text as they come, thinking apart from the answer."""

from collections.abc import Sequence
from typing import Any, Literal

Channel = Literal["answer", "thinking"]


class Reader:
    """Text of a stream of tokens, each in its channel.

    A character is held back until all its bytes are there, and the markers around thinking are
    not shown; the one that ends a channel belongs to it.
    """

    def __init__(self, tokenizer: Any, thinking: bool):
        self.channel: Channel = "thinking" if thinking else "answer"
        self._tokenizer, self._size = tokenizer, len(tokenizer)
        self._held: list[int] = []  # tokens that may turn out to be a marker
        self._text = tokenizer.detokenizer
        self._trim, self._lost = False, ""

    def follow(self, tokens: Sequence[int], lost: str) -> None:
        """Go on after some tokens, and do not repeat blanks that are there already."""
        for token in tokens:
            self._add(token)
        assert self._text.last_segment is not None
        self._lost = lost

    def read(self, token: int) -> tuple[Channel, str]:
        """The channel a token belongs to and the text that is complete with it."""
        marker = self._marker()
        self._held.append(token)
        if self._held == marker:
            self._held = []
            channel, text = self.channel, self.rest()
            self.channel = "answer" if channel == "thinking" else "thinking"
            self._text, self._trim = self._tokenizer.detokenizer, True
            return channel, text
        while self._held and self._held != marker[: len(self._held)]:
            self._add(self._held.pop(0))
        return self.channel, self._segment()

    def rest(self) -> str:
        """What was held back, less a character that never was whole."""
        while self._held:
            self._add(self._held.pop(0))
        self._text.finalize()
        return self._segment().rstrip("\ufffd")

    def _marker(self) -> list[int]:
        """The tokens that end this channel; none if the model does not think aloud."""
        if self.channel == "thinking":
            return list(self._tokenizer.think_end_tokens or ())
        return list(self._tokenizer.think_start_tokens or ())

    def _add(self, token: int) -> None:
        # Embeddings are padded: some ids are no tokens.
        if token < self._size:
            self._text.add_token(token)

    def _segment(self) -> str:
        text = self._text.last_segment
        if self._trim:
            # The blank lines between a marker and its text are the marker's.
            text = text.lstrip("\n")
            self._trim = not text
        while text and self._lost:
            same = text[0] == self._lost[0]
            text, self._lost = (text[1:], self._lost[1:]) if same else (text, "")
        return text
