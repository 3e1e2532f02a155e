"""Calls of tools, as the model wrote them."""

import json
from collections.abc import Sequence

from textual.content import Content
from textual.widgets import Static

from ..engine.protocol import ToolCall
from .theme import FAINT
from .transcript import plain


class Calls(Static):
    """Which tools the model wants to be called, and with what; nothing is run."""

    def __init__(self):
        super().__init__(classes="calls")
        self.display, self.shown = False, 0

    def show(self, calls: Sequence[ToolCall]) -> None:
        """All calls of an answer."""
        if len(calls) == self.shown:
            return
        self.display, self.shown = bool(calls), len(calls)
        self.update(Content("\n").join(line for call in calls for line in _lines(call)))


def _lines(call: ToolCall) -> list[Content]:
    head = Content.assemble(
        ("Tool call ", FAINT),
        (plain(call.name), "bold $text-accent"),
        (" · not run", FAINT),
    )
    return [head, Content(plain(pretty(call.arguments)))]


def pretty(arguments: str) -> str:
    """Arguments on lines of their own; what is no JSON stays as it is."""
    try:
        return json.dumps(json.loads(arguments), ensure_ascii=False, indent=2)
    except ValueError:
        return arguments
