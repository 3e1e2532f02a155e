"""An answer while it is being written."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from . import growing
from .tree import Message
from .writer import Writer


class Draft:
    """An answer that grows in the file as often as it is told.

    Attributes:
        id: Its name while it grows; the message it becomes has another one.
        message: What was said so far.
    """

    def __init__(
        self,
        writer: Writer,
        session: str,
        message: Message,
        clock: Callable[[], float],
        *,
        indexed: bool,
    ):
        self.id, self.message = secrets.token_hex(8), message
        self._writer, self._session, self._clock = writer, session, clock
        self._indexed = indexed

    def grow(
        self, content: str, thinking: str = "", seconds: Sequence[float] = (), **facts: Any
    ) -> None:
        """All that was said so far, with the seconds of each token and what else is known."""
        message = self.message = replace(
            self.message,
            content=content,
            thinking=thinking,
            seconds=seconds,
            facts=self.message.facts | facts,
        )
        self._writer.soon(self.id, lambda c: growing.grow(c, self.id, message), late=0)

    def finish(self, ended: str, **facts: Any) -> Message:
        """The message it has become, which the conversation stands at now.

        Args:
            ended: How: a `Reason` of the protocol, or "failed".
        """
        facts = self.message.facts | facts
        message = replace(self.message, ended=ended, facts=facts).named()
        session, now, indexed = self._session, self._clock(), self._indexed
        self._writer.put(
            lambda c: growing.finish(c, session, self.id, message, now, indexed=indexed), self.id
        )
        return message

    def drop(self) -> None:
        """Nothing was said: the conversation stands where it stood before."""
        self._writer.put(lambda c: growing.drop(c, self.id), self.id)
