"""A conversation as text for people, or as data for programs."""

import json
import re
import time
import unicodedata
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from ..attachment import pictures, told
from ..chat.figures import ENDINGS, duration, milliseconds, pace, rate, tokens
from ..chat.transcript import plain
from .images import Images
from .tree import Conversation, Message

FORMAT = "mlxarch.history/1"  # of the JSON; a change that breaks readers counts on
SLUG = 40  # characters


def markdown(conversation: Conversation) -> str:
    """The branch that is shown, as Markdown."""
    parts = [f"# {line(conversation.title)}", about(conversation)]
    if conversation.system:
        parts.append(_quote(f"System prompt: {conversation.system}"))
    for message in conversation.thread():
        parts.append(f"## {speaker(message)}")
        if message.thinking:
            summary = "<details>\n<summary>Thinking</summary>"
            parts.append(f"{summary}\n\n{_quote(message.thinking)}\n\n</details>")
        parts += [_closed(plain(told(message.content)).strip()), *_calls(message)]
        if figures := remarks(conversation, message):
            parts.append(f"*{figures}*")
    return "\n\n".join(part for part in parts if part) + "\n"


def html(conversation: Conversation, images: Images | None = None) -> str:
    """The branch that is shown, as one page that needs nothing else: pictures are within."""
    from .page import page

    return page(conversation, images)


def data(conversation: Conversation) -> str:
    """All branches, as JSON."""
    return json.dumps(tree(conversation), ensure_ascii=False, indent=2) + "\n"


FORMATS: dict[str, Callable[[Conversation, Images], str]] = {
    "md": lambda conversation, _: markdown(conversation),
    "html": html,
    "json": lambda conversation, _: data(conversation),
}


def tree(conversation: Conversation) -> dict[str, Any]:
    """All branches, as JSON knows them; times are of UTC."""
    found = {"format": FORMAT} | asdict(conversation)
    found["created"], found["updated"] = moment(conversation.created), moment(conversation.updated)
    found["messages"] = [
        asdict(message)
        | {"created": moment(message.created)}
        | {"seconds": [float(f"{second:.3g}") for second in message.seconds]}
        | ({"pictures": list(map(asdict, shown))} if (shown := pictures(message.content)) else {})
        for message in conversation.messages.values()
    ]
    return found


def moment(seconds: float) -> str:
    """A time as programs read it: `2026-11-28T08:07:10Z`."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")[:19] + "Z"


def about(conversation: Conversation) -> str:
    """A line on a whole conversation."""
    count = len(conversation.thread())
    began = time.strftime("%Y-%m-%d %H:%M", time.localtime(conversation.created))
    said = f"{count} message{'' if count == 1 else 's'}"
    return " · ".join(filter(None, [line(conversation.model), said, began, conversation.id]))


def speaker(message: Message) -> str:
    """Who said it."""
    names = {"user": "You", "assistant": line(message.model) or "Model"}
    return names.get(message.role, line(message.role).capitalize())


def remarks(conversation: Conversation, message: Message) -> str:
    """A line under an answer: how it ended, how fast it was, which of several it is."""
    parts = []
    if message.ended:
        parts.append(ENDINGS.get(message.ended, message.ended))
    if message.seconds:
        parts.append(tokens(len(message.seconds)))
        speed = pace(message.seconds)
        if speed.mean is not None and speed.median is not None:
            parts += [f"{rate(speed.mean)} tokens/s", f"{milliseconds(speed.median)} ms each"]
    first = (message.facts.get("stats") or {}).get("first_token_seconds")
    if first and message.seconds:
        parts.append(f"first after {duration(first)}")
    siblings = [one.id for one in conversation.children(message.parent)]
    if len(siblings) > 1:
        parts.append(f"{siblings.index(message.id) + 1} of {len(siblings)}")
    return " · ".join(filter(None, parts))


def file_name(conversation: Conversation, ending: str) -> str:
    """A name for an export that sorts by day and says what is in it."""
    day = time.strftime("%Y-%m-%d", time.localtime(conversation.created))
    title = unicodedata.normalize("NFC", conversation.title.lower())
    slug = re.sub(r"[\W_]+", "-", title)[:SLUG].strip("-")
    return "-".join(filter(None, [day, slug, conversation.id])) + f".{ending}"


def calls(message: Message) -> list[dict[str, Any]]:
    """Calls of tools that a message asks for."""
    found = message.facts.get("calls")
    return [call for call in found if isinstance(call, dict)] if isinstance(found, list) else []


def _calls(message: Message) -> list[str]:
    return [
        f"Call of `{line(str(call.get('name')))}`:\n\n{_fence(plain(str(call.get('arguments'))))}"
        for call in calls(message)
    ]


def _fence(text: str) -> str:
    longest = max(map(len, re.findall("`+", text)), default=0)
    ticks = "`" * max(3, longest + 1)
    return f"{ticks}\n{text}\n{ticks}"


def _closed(text: str) -> str:
    """A text whose last block of code ends: one that was cut off would swallow what follows."""
    from markdown_it import MarkdownIt

    fences = [one for one in MarkdownIt("commonmark").parse(text) if one.type == "fence"]
    if not fences or fences[-1].level:
        return text
    (begin, end), mark, lines = fences[-1].map or (0, 0), fences[-1].markup, text.splitlines()
    last = lines[end - 1].strip()
    whole = end - begin > 1 and last.startswith(mark) and not last.strip(mark[0])
    return text if whole or end < len(lines) else f"{text}\n{mark}"


def _quote(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in plain(text).strip().split("\n"))


def line(text: str) -> str:
    """A text on one line, with nothing that a terminal would obey."""
    return " ".join(plain(text).split())
