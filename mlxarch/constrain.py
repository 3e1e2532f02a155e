"""Answers that satisfy a JSON schema: only tokens that can still lead to one may be said.

The schema becomes a grammar that llguidance follows; it is an extra. Such an answer stands on one
line, as Python's json.dumps writes it, so that no model gets lost in blanks. It ends where the
grammar can end, and it begins after the model's thinking.

Source: llguidance, https://github.com/guidance-ai/llguidance.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import mlx.core as mx
import numpy as np

from .errors import FormatError, MlxarchError

if TYPE_CHECKING:
    from llguidance import LLTokenizer
    from llguidance._lib import JsonCompileOptions

    from .tokenizer import Tokenizer

_STYLE: "JsonCompileOptions" = {
    "whitespace_flexible": False,
    "key_separator": ": ",
    "item_separator": ", ",
}


def grammar(schema: Mapping[str, Any]) -> str:
    """A JSON schema in llguidance's terms.

    Raises: FormatError if it asks for what cannot be or is not known; MlxarchError without
        llguidance.
    """
    try:
        from llguidance import LLMatcher
    except ImportError as error:
        raise MlxarchError(
            "A JSON schema is followed by llguidance, which is not installed; "
            "run `pip install 'mlxarch[schema]'`."
        ) from error
    text = LLMatcher.grammar_from_json_schema(dict(schema), defaults=_STYLE)
    failed, messages = LLMatcher.validate_grammar_with_warnings(text)
    if failed:
        raise FormatError(f"The JSON schema cannot be followed: {_line(messages[0])}")
    return text


class Constraint:
    """What of an answer's tokens may follow, so that all of them satisfy a schema.

    Args:
        vocab: Tokens that the model knows; it may have rows beyond the tokenizer's.
        thinking: Whether the answer begins inside its thinking, where all is allowed but to stop.
        opening: Tokens of the prompt that open the answer; where thinking ends among them, there
            will be none.

    Raises: FormatError if the schema or the tokenizer cannot be followed.
    """

    def __init__(
        self,
        schema: Mapping[str, Any],
        tokenizer: "Tokenizer",
        vocab: int,
        *,
        thinking: bool = False,
        opening: Sequence[int] = (),
    ):
        text = grammar(schema)
        from llguidance import LLMatcher

        self._matcher = LLMatcher(_tokens(tokenizer, vocab), text)
        self._vocab, self._stops = vocab, [i for i in tokenizer.stop_ids if i < vocab]
        self._opens, self._closes = tokenizer.think_start, tokenizer.think_end
        begun = self._closes in [
            tuple(opening[i : i + len(self._closes)]) for i in range(len(opening))
        ]
        self._place: Literal["start", "thinking", "answer"] = (
            "thinking" if thinking else "answer" if begun else "start"
        )
        self._last: tuple[int, ...] = ()  # of thinking

    def allowed(self, guesses: Sequence[int] = ()) -> mx.array:
        """(1 + n, V) bool: what may follow now, and after each of n guesses.

        After a guess that may not be itself, everything may: none of that is ever said.
        """
        place, last, rows, consumed = self._place, self._last, [self._row()], 0
        for guess in guesses:
            if not rows[-1][guess] or guess in self._stops:
                break
            consumed += self._advance(guess)
            rows.append(self._row())
        self._matcher.rollback(consumed)
        self._place, self._last = place, last
        rows += [np.ones(self._vocab, dtype=bool)] * (1 + len(guesses) - len(rows))
        return mx.array(np.stack(rows))

    def take(self, token: int) -> None:
        """Account for a token that was said, and does not stop the answer.

        Raises: FormatError if the grammar has grown too large to be followed.
        """
        self._advance(token)

    def _advance(self, token: int) -> bool:
        """Take one step; whether it was one of the grammar."""
        if self._place == "thinking":
            self._last = (*self._last, token)[-len(self._closes) :]
            self._place = "answer" if self._last == self._closes else "thinking"
            return False
        if self._place == "start" and (token,) == self._opens:
            self._place, self._last = "thinking", ()
            return False
        self._place = "answer"
        self._matcher.consume_token(token)
        self._check()
        return True

    def _row(self) -> np.ndarray:
        """(V,) bool: what may follow now."""
        if self._place == "thinking":
            row = np.ones(self._vocab, dtype=bool)
            row[self._stops] = False
            return row
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._check()
        row = np.unpackbits(bits, bitorder="little")[: self._vocab].astype(bool)
        if self._place == "start" and len(self._opens) == 1:
            row[list(self._opens)] = True
        return row

    def _check(self) -> None:
        if self._matcher.is_error():
            reason = _line(self._matcher.get_error())
            raise FormatError(f"The JSON schema cannot be followed any further: {reason}")


@lru_cache(maxsize=1)
def _tokens(tokenizer: "Tokenizer", vocab: int) -> "LLTokenizer":
    """A tokenizer in llguidance's terms: it takes a second, so it is kept."""
    from llguidance import LLTokenizer

    stops = [token for token in sorted(tokenizer.stop_ids) if token < vocab]
    if not stops:
        raise FormatError("The tokenizer has no token that ends an answer; a schema needs one.")
    rows = max(vocab, 1 + max(tokenizer.vocabulary.values()))
    try:
        return LLTokenizer(tokenizer.serialized, n_vocab=rows, eos_token=stops)
    except ValueError as error:
        raise FormatError(f"The tokenizer cannot follow a schema: {_line(str(error))}") from error


def _line(message: str) -> str:
    """A message of several lines, as a sentence; without what llguidance says of its insides."""
    return " ".join(message.partition("<state>")[0].split()).rstrip(".") + "."
