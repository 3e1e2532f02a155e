"""Log-probabilities of an answer in OpenAI's form, whole or packet by packet.

Mlx-lm keeps them for whole answers only, so that an answer's pieces are noted here as they pass.
"""

from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any


class LogProbs:
    """Those of one answer.

    Args:
        decode: The text of some tokens.
        chat: Whether a conversation is answered, which has a form of its own.
        tops: Whether the likeliest others are told.
    """

    def __init__(self, decode: Callable[[list[int]], str], *, chat: bool, tops: bool):
        self._decode, self._chat, self._tops = decode, chat, tops
        self._said: list[Any] = []  # pieces that are in no packet yet
        self._offset = 0  # characters of those that are

    def noted(self, pieces: Iterator[Any]) -> Iterator[Any]:
        """Pieces of the answer, as mlx-lm makes them."""
        for piece in pieces:
            self._said.append(piece)
            yield piece

    def told(self) -> dict[str, Any] | None:
        """What was said since the last time; None for nothing."""
        said = self._said.copy()
        self._said.clear()
        if not said:
            return None
        content = [self._entry(piece.token, piece.logprob) for piece in said]
        likely = [self._likely(piece.top_tokens) if self._tops else [] for piece in said]
        if self._chat:
            pairs = zip(content, likely, strict=True)
            return {"content": [each | {"top_logprobs": some} for each, some in pairs]}
        texts = [each["token"] for each in content]
        *offsets, self._offset = accumulate(map(len, texts), initial=self._offset)
        return {
            "tokens": texts,
            "token_logprobs": [each["logprob"] for each in content],
            "top_logprobs": [{e["token"]: e["logprob"] for e in some} for some in likely],
            "text_offset": offsets,
        }

    def _likely(self, tops: Any) -> list[dict[str, Any]]:
        ordered = sorted(tops, key=lambda top: -top["logprob"])
        return [self._entry(top["id"], top["logprob"]) for top in ordered]

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        text = self._decode([token])
        return {"token": text, "logprob": logprob, "bytes": [*text.encode()]}
