"""The history: what the chat calls, from its one thread, without ever waiting for the disk."""

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, Self

from . import growing, rows, schema, search
from .draft import Draft
from .file import connect, in_words, place, read_all
from .images import Images
from .tree import Conversation, Message, Summary, clean, new_id
from .writer import HistoryError, Work, Writer, transaction


class History:
    """Conversations in a file, or in memory alone.

    Calls return at once; a thread writes. Reading waits for what was written before. Several
    programs may use one file at a time.

    Attributes:
        path: The file; None if nothing outlives the program.
        images: Copies of the pictures that were shown.
        trouble: Why nothing can be saved at the moment, in a sentence; else empty.
    """

    def __init__(
        self,
        path: Path | None,
        told: Callable[[str], object] = lambda trouble: None,
        clock: Callable[[], float] = time.time,
        trouble: str = "",
        past: Path | None = None,
    ):
        self.path, self._clock, self._trouble = path, clock, trouble
        self.images = Images(path, past)
        self._writing = connect(path)
        try:
            with in_words(path or past):
                if past:
                    read_all(past, self._writing)
                schema.migrate(self._writing, path or past)
                self._indexed = schema.index(self._writing)
                with transaction(self._writing):
                    growing.settle(self._writing, indexed=self._indexed)
                    rows.tidy(self._writing, clock())
                self.images.sweep(self._writing)
                self._reading = self._writing if path is None else connect(path)
        except BaseException:
            self._writing.close()
            raise
        self._begun: dict[str, dict[str, Any]] = {}  # sessions without a row so far
        writing, self._lock = threading.RLock(), threading.RLock()
        if path is None:
            self._lock = writing  # one connection for both
        self._writer = Writer(self._writing, writing, told)

    @classmethod
    def open(
        cls,
        path: Path | None = None,
        told: Callable[[str], object] = lambda trouble: None,
        clock: Callable[[], float] = time.time,
    ) -> Self:
        """The history in a file, made if it is missing; by default the person's own.

        Args:
            told: Hears, in another thread, why saving fails, and "" once it works again.

        Raises: Damaged if the file is broken (`set_aside` makes room), HistoryError else.
        """
        return cls(place() if path is None else path, told, clock)

    @classmethod
    def nowhere(cls, trouble: str = "", past: Path | None = None) -> Self:
        """A history that is gone with the program.

        Args:
            trouble: Why it is not kept.
            past: A file that cannot be written; what can be read of it is there, too.

        Raises: HistoryError if nothing can.
        """
        return cls(None, trouble=trouble, past=past)

    @property
    def trouble(self) -> str:
        """Why nothing can be saved at the moment; empty if it can."""
        return self._trouble or self._writer.trouble

    def flush(self) -> bool:
        """Wait a few seconds until all is on disk; whether it is."""
        return self._writer.flush()

    def close(self) -> None:
        """Write what is left, and end."""
        for session in [session for session, begun in self._begun.items() if "copies" in begun]:
            self.delete(session)
        if self._writer.close():
            for connection in (self._writing, self._reading):
                connection.close()
        self.images.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def begin(self, *, model: str, system: str | None = None, **settings: Any) -> str:
        """The id of a new conversation, which is in the list once something is in it."""
        while self._read(rows.SESSION, session := new_id(), flush=False):
            pass
        self._begun[session] = {"model": model, "system": system, "settings": settings}
        self._writer.after(growing.myself)  # nobody waits for it yet
        return session

    def update(self, session: str, **changes: Any) -> None:
        """Change the `model`, the `system` prompt or the `settings` (a dict) of a conversation."""
        if session in self._begun:
            self._begun[session] |= changes
        else:
            self._put(session, lambda c: rows.update(c, session, **changes))

    def add(
        self,
        session: str,
        parent: str | None,
        role: str,
        content: str,
        *,
        thinking: str = "",
        model: str = "",
        ended: str | None = None,
        seconds: Sequence[float] = (),
        **facts: Any,
    ) -> Message:
        """A whole message, which the conversation stands at from now on."""
        message = Message(
            parent=parent,
            role=role,
            content=content,
            thinking=thinking,
            model=model,
            created=self._clock(),
            ended=ended,
            seconds=seconds,
            facts=facts,
        ).named()
        self._put(session, lambda c: rows.add(c, session, message, indexed=self._indexed))
        return message

    def start(
        self,
        session: str,
        parent: str | None,
        role: str = "assistant",
        *,
        model: str = "",
        replaces: str | None = None,
    ) -> Draft:
        """An answer that grows; the conversation stands at `parent` until it is finished.

        Args:
            replaces: The id of a message that this one goes on from, and takes the place of.
        """
        message = Message(parent=parent, role=role, content="", model=model, created=self._clock())
        self._write_begun(session)
        draft = Draft(self._writer, session, message, self._clock, indexed=self._indexed)
        self._writer.put(lambda c: growing.start(c, session, draft.id, message, replaces))
        return draft

    def set_head(self, session: str, message: str | None) -> None:
        """Where a conversation stands."""
        self._put(session, lambda c: rows.update(c, session, head=message))

    def set_draft(self, session: str, text: str) -> None:
        """What is in the input; saved within half a second, at once if it is empty."""
        key, text, now = ("draft", session), clean(text), self._clock()
        if text:
            self._write_begun(session)
            self._writer.soon(key, lambda c: rows.update(c, session, draft=text, updated=now))
        elif session not in self._begun:
            self._writer.put(lambda c: rows.update(c, session, draft=""), key)

    def thread(self, message: str) -> list[Message]:
        """A message and all that came before it, oldest first."""
        found = self._read(rows.THREAD, message)
        return [rows.message(row) for row in reversed(found)]

    def children(self, session: str, message: str | None) -> list[Message]:
        """What a conversation has in answer to a message, or at its beginning; oldest first."""
        return [rows.message(row) for row in self._read(rows.CHILDREN, session, message)]

    def sessions(self, query: str = "", limit: int = 100) -> list[Summary]:
        """Conversations, the last one first, or those that hold all words of a query, best first.

        The last word may be the beginning of one; words in "double quotes" belong together.
        """
        with self._reader() as connection:
            return search.sessions(connection, query, limit, indexed=self._indexed)

    def last(self) -> str | None:
        """The id of the conversation that something was last done in."""
        found = self.sessions(limit=1)
        return found[0].id if found else None

    def questions(self, limit: int = 200) -> list[str]:
        """What was asked last, in whatever conversation, oldest first."""
        return [row["content"] for row in reversed(self._read(rows.QUESTIONS, limit))]

    def find(self, start: str) -> str:
        """The id that begins with `start`.

        Raises: HistoryError if none does, or several do.
        """
        with self._reader() as connection:
            return search.session(connection, start.strip().lower())

    def load(self, session: str) -> Conversation:
        """All of a conversation; an answer that was cut off by a kill is a message, too.

        Raises: HistoryError if there is no such conversation.
        """
        if self._read("SELECT 1 FROM growing WHERE session = ? LIMIT 1", session):
            self._writer.put(lambda c: growing.settle(c, session, indexed=self._indexed))
        found = self._read(rows.SESSION, session)
        if not found:
            raise HistoryError(
                f"No conversation has the id {session!r}; `mlxarch history` lists them."
            )
        messages = [rows.message(row) for row in self._read(rows.MESSAGES, session)]
        return rows.conversation(found[0], messages)

    def fork(self, session: str, message: str | None) -> str:
        """The id of a new conversation that shares another one's past up to a message."""
        fork = self.begin(model="")
        del self._begun[fork]
        now = self._clock()
        self._writer.put(lambda c: rows.fork(c, session, message, fork, now))
        return fork

    def copy(self, session: str) -> str:
        """The id of a conversation like another one.

        It has all of it from now on, and is gone in the end if nothing was done in it.
        """
        copy, now = self.begin(model=""), self._clock()
        self._begun[copy] = {"copies": session}
        self._writer.put(lambda c: rows.copy(c, session, copy, now))
        return copy

    def remove(self, session: str, message: str) -> None:
        """Delete a message and all that was said after it; what forks share of it stays."""
        self._put(session, lambda c: rows.remove(c, session, message, indexed=self._indexed))
        self._writer.after(self._wipe)

    def rename(self, session: str, title: str) -> None:
        """Give a conversation a title; an empty one makes it that of its first question again."""
        title = " ".join(clean(title).split())
        self._put(session, lambda c: rows.update(c, session, title=title))

    def delete(self, session: str) -> None:
        """Delete a conversation, and its words from the file; what forks share of it stays."""
        self._begun.pop(session, None)
        self._writer.put(
            lambda c: rows.delete(c, session, indexed=self._indexed), ("draft", session)
        )
        self._writer.after(self._wipe)

    def _wipe(self) -> None:
        self.images.sweep(self._writing)
        # What was deleted is still in the log of writes; it stays if somebody reads there.
        with contextlib.suppress(sqlite3.OperationalError):
            self._writing.execute("PRAGMA wal_checkpoint (TRUNCATE)").fetchall()

    def _put(self, session: str, work: Work) -> None:
        self._write_begun(session)
        self._writer.put(work)

    def _write_begun(self, session: str) -> None:
        if begun := self._begun.pop(session, None):
            now = self._clock()
            if not begun.pop("copies", ""):
                self._writer.put(lambda c: rows.begin(c, session, now, **begun))
            elif begun:
                self._writer.put(lambda c: rows.update(c, session, **begun))

    @contextlib.contextmanager
    def _reader(self, *, flush: bool = True) -> Generator[sqlite3.Connection, None, None]:
        if flush:
            self._writer.flush()
        with self._lock, in_words(self.path):
            yield self._reading

    def _read(self, sql: str, *values: object, flush: bool = True) -> list[sqlite3.Row]:
        with self._reader(flush=flush) as connection:
            return connection.execute(sql, values).fetchall()
