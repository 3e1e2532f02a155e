"""A checkpoint's chat template: conversations as the text that its model has learnt to answer.

transformers renders it in jinja's sandbox; nothing else of the checkpoint is run.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from . import switches
from .errors import FormatError

Messages = Sequence[Mapping[str, Any]]

_USER = {"role": "user", "content": "Hello there."}
_ASSISTANT = {"role": "assistant", "reasoning_content": "A thought.", "content": "A word."}
# Answers without thoughts: a blank line may become one token with what opens them.
_WORDS = "A word.", "\n\nA word."
_TOOL = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Looks.",
        "parameters": {"type": "object", "properties": {"at": {"type": "string"}}},
    },
}
# Conversations in which a switch of a template may show.
_EXAMPLES: list[tuple[Messages, list[dict[str, Any]]]] = [
    ([_USER], []),
    ([{"role": "system", "content": "Be brief."}, _USER, _ASSISTANT, _USER, _ASSISTANT, _USER], []),
    ([_USER], [_TOOL]),
]


class Template:
    """Renders conversations.

    Args:
        tokenizer: transformers' one, which has the template.
        think: What begins and ends thinking in the text; None for a model that does not think.
    """

    def __init__(self, tokenizer: Any, think: tuple[str, str] | None):
        self._tokenizer, self._think = tokenizer, think

    def render(
        self,
        messages: Messages,
        *,
        opened: bool,
        tools: Sequence[Mapping[str, Any]] = (),
        switches: Mapping[str, Any] | None = None,
    ) -> str:
        """The text of a conversation, and if `opened` what the answer begins with.

        Raises: FormatError if the template refuses it.
        """
        try:
            return self._apply(messages, tools, switches, add_generation_prompt=opened)
        # A template raises jinja's errors, or any other from inside its expressions.
        except Exception as error:
            raise FormatError(
                f"The chat template refuses this conversation: {line(error)}"
            ) from error

    def left_open(self, messages: Messages, **options: Any) -> str:
        """The text of a conversation up to where its last message ends, so that it goes on.

        A message that has thoughts and no content ends within its thinking.

        Raises: FormatError if the template refuses it, or does not show that message.
        """
        last = messages[-1]
        thinking = not last.get("content") and last.get("reasoning_content")
        before = self.render(messages[:-1], opened=True, **options) if messages[:-1] else ""
        if not last.get("content") and not thinking:
            return before
        try:
            return self._apply(
                messages,
                options.get("tools", ()),
                options.get("switches"),
                continue_final_message="reasoning_content" if thinking else "content",
            )
        except Exception as error:
            # Few templates show thoughts that no answer follows.
            if thinking and self._think and before:
                start, _ = self._think
                opening = "" if before.rstrip().endswith(start) else f"{start}\n"
                return f"{before}{opening}{last['reasoning_content']}"
            self.render(messages, opened=False, **options)
            raise FormatError(
                "The chat template does not show the answer that is to go on. Ask for a new one."
            ) from error

    @cached_property
    def switches(self) -> dict[str, list[Any]]:
        """Variables that a person may set, and their values, the template's own first."""
        given = set(self._tokenizer.special_tokens_map)
        try:
            text = self._tokenizer.get_chat_template(None, None)
            return switches.find(text, given, self._examples)
        # A template that cannot be read is told of when it is used.
        except Exception:
            return {}

    @cached_property
    def end_of_thinking(self) -> str:
        """What the template writes between thoughts and an answer; empty without thoughts."""
        if self._think is None:
            return ""
        before, after = _ASSISTANT["reasoning_content"], _ASSISTANT["content"]
        try:
            text = self.render([_USER, _ASSISTANT], opened=False)
        except FormatError:
            text = ""
        between = text.rpartition(before)[2].partition(after)[0]
        return between if self._think[1] in between else f"\n{self._think[1]}\n\n"

    def openings(self, switches: Mapping[str, Any]) -> list[str]:
        """A question, the same with what opens its answer, and some that were answered since.

        Empty texts if the template refuses them.
        """
        asked = [_USER]
        answers = [_ASSISTANT, *({"role": "assistant", "content": words} for words in _WORDS)]
        try:
            return [
                *(self.render(asked, opened=opened, switches=switches) for opened in (False, True)),
                *(
                    self.render([*asked, answer, *asked], opened=False, switches=switches)
                    for answer in answers
                ),
            ]
        except FormatError:
            return [""] * 3

    def _examples(self, switches: Mapping[str, Any]) -> list[str] | None:
        """Each example's text or refusal; None if all are refused."""
        texts, refused = [], 0
        for messages, tools in _EXAMPLES:
            try:
                texts.append(self._apply(messages, tools, switches, add_generation_prompt=True))
            except Exception as error:
                texts.append(repr(error))
                refused += 1
        return None if refused == len(_EXAMPLES) else texts

    def _apply(
        self,
        messages: Messages,
        tools: Sequence[Mapping[str, Any]],
        switches: Mapping[str, Any] | None,
        **options: Any,
    ) -> str:
        told = {name: value for name, value in (switches or {}).items() if value is not None}
        return self._tokenizer.apply_chat_template(
            list(messages), tools=list(tools) or None, tokenize=False, **{**told, **options}
        )


def line(error: Exception) -> str:
    """The first line of an error, as a sentence."""
    text = (str(error) or type(error).__name__).strip().splitlines()[0]
    return text if text.endswith(".") else f"{text}."
