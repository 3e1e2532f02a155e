"""Calls of tools as a model writes them, read by mlx-lm's parsers. Nothing is called."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

Parser = Callable[[str, Any], Any]


class Call(NamedTuple):
    """One call."""

    name: str  # empty if none could be read
    arguments: str  # JSON, or what the model wrote if it is none


def read(text: str, parser: Parser, tools: Sequence[Mapping[str, Any]] = ()) -> list[Call]:
    """The calls between a pair of markers."""
    try:
        found = parser(text, list(tools) or None)
        return [_call(each) for each in (found if isinstance(found, list) else [found])]
    # A parser raises whatever comes of text that is not as it expects.
    except Exception:
        return [Call("", text.strip())]


def _call(parsed: Mapping[str, Any]) -> Call:
    arguments = parsed.get("arguments", {})
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return Call(str(parsed["name"]), arguments)
