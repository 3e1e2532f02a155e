"""Text to tokens by the checkpoint's own chat template, and tokens to text as they come."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from . import shards
from .cache import shared_length
from .calls import Call, Parser, read
from .compat import PreTrainedConfig, json_tools, load_tokenizer
from .encoder import Encoder
from .errors import FormatError
from .files import check_folder
from .reader import Reader
from .sampling import generation_config
from .template import Messages, Template, line

# Tokens that end a turn whether the publisher lists them or not: Tiny Aya's generation_config.json
# knows only <EOS_TOKEN>, which its answers do not end with.
_ENDS_OF_TURN = (
    "<|END_OF_TURN_TOKEN|>",
    "<|END_RESPONSE|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
)
_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")


@dataclass(frozen=True)
class Prompt:
    """A conversation as the model reads it."""

    tokens: list[int]
    turn: int  # so many of them are the conversation; the rest only opens the answer
    lasting: int  # so many of them a later prompt begins with as well
    thinking: bool  # the answer begins inside its thinking
    lost: str | None = None  # blanks that a message that goes on has lost; None if none goes on


class Tokenizer:
    """A checkpoint's tokenizer, chat template and stop tokens. No code of it is executed."""

    def __init__(self, folder: Path):
        """Raises: FormatError if it is absent or damaged."""
        if not any((folder / name).exists() for name in _FILES):
            raise FormatError(f"{folder} has no tokenizer.json; copy the publisher's there.")
        check_folder(folder)
        try:
            self._tokenizer = _load(folder)
        # transformers raises whatever its readers do.
        except Exception as error:
            raise FormatError(f"The tokenizer in {folder} cannot be read: {line(error)}") from error
        self._encode = Encoder(self._tokenizer)
        # mlx-lm's wrapper would tell a template to think whose publisher has it not to.
        inner = self._tokenizer._tokenizer if self._tokenizer.chat_template else self._tokenizer
        think = (self._tokenizer.think_start, self._tokenizer.think_end)
        self._template = (
            Template(inner, think if self._tokenizer.has_thinking else None)
            if self._tokenizer.has_chat_template
            else None
        )
        self._openings: dict[str, tuple[list[int], int]] = {}  # by what the template is told
        self._calls = self._find_calls()
        self.stop_ids = self._stop_ids(shards.read_config(folder), generation_config(folder))

    @property
    def vocabulary(self) -> dict[str, int]:
        """The id of every token."""
        return self._tokenizer.get_vocab()

    @property
    def thinks(self) -> bool:
        """Whether the model can think before it answers: its template knows of that, too."""
        markers = (self._tokenizer.think_start, self._tokenizer.think_end)
        return any(each and each in str(self._tokenizer.chat_template) for each in markers)

    @property
    def wrapped(self) -> Any:
        """Mlx-lm's, which ends answers with the same tokens."""
        self._tokenizer.eos_token_ids = self.stop_ids
        return self._tokenizer

    @property
    def serialized(self) -> str:
        """It as JSON in the form of the library tokenizers, tokens that were added included.

        Raises: FormatError if it is of another library.
        """
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise FormatError("The tokenizer has no tokenizer.json; a JSON schema needs one.")
        whole = copy.copy(backend)
        whole.no_padding()
        whole.no_truncation()
        return whole.to_str()

    @property
    def think_start(self) -> tuple[int, ...]:
        """The tokens that open thinking; none if the model does not think aloud."""
        return tuple(self._tokenizer.think_start_tokens or ())

    @property
    def think_end(self) -> tuple[int, ...]:
        """The tokens that close thinking."""
        return tuple(self._tokenizer.think_end_tokens or ())

    @property
    def call_markers(self) -> tuple[str, str] | None:
        """What begins and ends a call of a tool; None if no parser knows this model's."""
        return None if self._calls is None else self._calls[1:]

    def calls(self, text: str, tools: Sequence[Mapping[str, Any]] = ()) -> list[Call]:
        """The calls that a model wrote between a pair of markers."""
        return [] if self._calls is None else read(text, self._calls[0], tools)

    @cached_property
    def end_of_thinking(self) -> list[int]:
        """What a model's thoughts are ended with, as its template does; it may be told so."""
        return self._encode(self._template.end_of_thinking) if self._template else []

    @property
    def switches(self) -> dict[str, list[Any]]:
        """What a person may tell the chat template, and its values, the template's own first."""
        return self._template.switches if self._template else {}

    def prompt(
        self,
        messages: Messages,
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        switches: Mapping[str, Any] | None = None,
    ) -> Prompt:
        """A conversation in the template's form, ready to be answered.

        If its last message is the assistant's, ready to go on where that ends. Without a template
        the contents are plain text, which a base model continues.

        Raises: FormatError if the template refuses it or nothing is left of it.
        """
        lost = None
        if self._template:
            render = partial(self._template.render, tools=tools, switches=switches)
            if messages and messages[-1]["role"] == "assistant":
                text = self._template.left_open(messages, tools=tools, switches=switches)
                before = render(messages[:-1], opened=False) if messages[:-1] else ""
                lost = _lost(messages[-1], text)
            else:
                text, before = render(messages, opened=True), render(messages, opened=False)
            tokens, turn = self._encode(text), self._encode(before)
        else:
            tokens = turn = self._tokenizer.encode("\n".join(m["content"] for m in messages))
        if not tokens:
            raise FormatError("The conversation is empty; say something.")
        length = shared_length(tokens, turn)
        opening = tokens[length:]
        lasting = length + self._lasting(opening, switches or {})
        return Prompt(tokens, length, lasting, self._thinks(opening), lost)

    def reader(self, *, thinking: bool = False, lost: str | None = None) -> Reader:
        """What turns an answer's tokens into text; for the arguments see `Prompt`."""
        reader = Reader(self._tokenizer, thinking)
        if lost is not None:
            # A blank before the first word is dropped, but not where something precedes it.
            reader.follow(self._encode("a"), lost)
        return reader

    def _find_calls(self) -> tuple[Parser, str, str] | None:
        """What reads calls of tools, and what begins and ends them."""
        mine = self._tokenizer
        if mine.has_tool_calling:
            return mine.tool_parser, mine.tool_call_start, mine.tool_call_end
        # mlx-lm looks for spellings of JSON's keys, too.
        if json_tools.tool_call_start in str(mine.chat_template):
            return json_tools.parse_tool_call, json_tools.tool_call_start, json_tools.tool_call_end
        return None

    def _lasting(self, opening: list[int], switches: Mapping[str, Any]) -> int:
        """How many of the tokens that open an answer are still there once it is one of many."""
        known = repr(sorted(switches.items()))
        if self._template and known not in self._openings:
            before, opened, *later = map(self._encode, self._template.openings(switches))
            begun = shared_length(opened, before)
            stays = min(shared_length(opened, each) for each in later)
            self._openings[known] = opened[begun:], max(0, stays - begun)
        usual, stays = self._openings.get(known, ([], 0))
        return stays if opening == usual else 0

    def _thinks(self, opening: list[int]) -> bool:
        """Whether the tokens that open an answer leave it inside its thinking."""
        if not self._tokenizer.has_thinking:
            return False
        start = self._tokenizer.rfind_think_start(opening)
        return start > self._tokenizer.rfind_think_end(opening)

    def _stop_ids(self, *configs: Mapping[str, Any]) -> frozenset[int]:
        found = set(self._tokenizer.eos_token_ids)
        for config in configs:
            listed = config.get("eos_token_id")
            ids = listed if isinstance(listed, list) else [listed]
            found |= {each for each in ids if isinstance(each, int)}
        added = self._tokenizer.added_tokens_encoder
        return frozenset(found | {added[name] for name in _ENDS_OF_TURN if name in added})


def _lost(message: Mapping[str, Any], text: str) -> str:
    """Blanks at the end of a message that its rendering does not have."""
    said = message.get("content") or message.get("reasoning_content")
    if not isinstance(said, str) or text.endswith(said):
        return ""
    return said[len(said.rstrip()) :]


def _load(folder: Path) -> Any:
    options = {"trust_remote_code": False}
    try:
        return load_tokenizer(folder, options)
    except AttributeError:
        # Transformers reads config.json too, and trips over some with RoPE that it does not know.
        return load_tokenizer(folder, {**options, "config": PreTrainedConfig()})
