"""Messages as a tree: each knows what it answers, and its name is a hash of both."""

import hashlib
import json
import secrets
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

_LETTERS = "0123456789abcdefghjkmnpqrstvwxyz"  # of a conversation's id; no i, l, o, u


def new_id() -> str:
    """By chance, for a conversation: eight letters and digits."""
    return "".join(secrets.choice(_LETTERS) for _ in range(8))


@dataclass(frozen=True, kw_only=True)
class Message:
    """Something said, once and for all: what changes it makes another message.

    As with git's commits the id is a hash of all that is said here, of the id of what was said
    before, and of the time. So whoever goes on from a message shares all that came before it.
    """

    id: str = ""
    parent: str | None  # the id of what it answers; None begins a conversation
    role: str  # "user", "assistant", "system"
    content: str
    thinking: str = ""
    model: str = ""  # who answered
    created: float  # seconds since the epoch
    ended: str | None = None  # a `Reason` of the protocol, "failed" or "interrupted"
    seconds: Sequence[float] = ()  # one for each token, to three digits
    facts: dict[str, Any] = field(default_factory=dict)  # figures and whatever else is JSON

    @property
    def partial(self) -> bool:
        """The answer was cut off before the model had ended it."""
        return self.ended not in (None, "stop")

    def named(self) -> "Message":
        """The same message with its id, and all in it as it is read again."""
        content, thinking = clean(self.content), clean(self.thinking)
        said = [self.parent, self.role, content, thinking, self.model, self.created, self.ended]
        digest = hashlib.sha256(json.dumps([*said, self.facts], sort_keys=True).encode())
        return replace(
            self,
            id=digest.hexdigest()[:32],
            content=content,
            thinking=thinking,
            seconds=unpack(pack(self.seconds)),
        )


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A conversation in a list of them."""

    id: str
    title: str  # given by a person, else how the first question begins
    model: str
    messages: int  # of all branches
    created: float  # seconds since the epoch
    updated: float
    snippet: str = ""  # of what a search found, the words between `FOUND`


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """All of a conversation: each branch of it, and where it stands."""

    id: str
    title: str
    model: str
    system: str | None
    created: float
    updated: float
    head: str | None  # the last message of the branch that is shown
    draft: str  # what was in the input
    settings: dict[str, Any]
    messages: dict[str, Message]  # by id, oldest first

    def thread(self, head: str | None = None) -> list[Message]:
        """The branch that ends with `head`, by default the one that is shown; oldest first."""
        branch, step = [], self.head if head is None else head
        while step is not None:
            branch.append(self.messages[step])
            step = branch[-1].parent
        return branch[::-1]

    def children(self, parent: str | None) -> list[Message]:
        """What was said in answer to a message, or at the beginning, oldest first."""
        return [message for message in self.messages.values() if message.parent == parent]


FOUND = ("\x02", "\x03")  # before and after a word that was looked for
TITLE = 60  # characters


def titled(text: str) -> str:
    """A title made of how a text begins."""
    line = next(filter(None, (" ".join(line.split()) for line in text.splitlines())), "")
    return line if len(line) <= TITLE else line[: TITLE - 1].rstrip() + "…"


def clean(text: str) -> str:
    """`text` without halves of characters, which UTF-8 has no way to write."""
    return text.encode("utf-8", "replace").decode("utf-8")


def pack(seconds: Iterable[float]) -> bytes:
    """Seconds in two bytes each, which keeps three digits."""
    kept = [min(max(value, 0.0), 65504.0) for value in seconds]
    return struct.pack(f"<{len(kept)}e", *kept)


def unpack(data: bytes) -> list[float]:
    """The seconds that `pack` wrote."""
    found: Sequence[float] = struct.unpack(f"<{len(data) // 2}e", data)
    return list(found)
