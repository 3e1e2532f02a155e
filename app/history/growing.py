"""Answers while they are written: rows of their own, until they are messages.

Each says of which process it is, so that another one can tell when nobody writes it any more.
"""

import json
import math
import os
import sqlite3
from dataclasses import replace
from functools import cache

from . import rows
from .tree import Message, pack

FUZZ = 5  # seconds that the clock may have been set meanwhile

_GROWN = ("parent", "role", "content", "thinking", "model", "created", "seconds", "facts")


def start(
    connection: sqlite3.Connection,
    session: str,
    draft: str,
    message: Message,
    replaces: str | None,
) -> None:
    """An answer that has no words so far.

    Raises: HistoryError if its conversation is gone.
    """
    pid, born = myself()
    before = connection.execute("SELECT head FROM sessions WHERE id = ?", (session,)).fetchone()
    rows.update(connection, session, head=message.parent, updated=message.created)
    columns = "session, parent, replaces, role, content, thinking, model, created, seconds, facts"
    connection.execute(
        f"INSERT INTO growing (id, before, pid, born, {columns}) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, '', '', ?, ?, x'', '{}')",
        (
            *(draft, before["head"], pid, born, session, message.parent, replaces),
            *(message.role, message.model, message.created),
        ),
    )


def grow(connection: sqlite3.Connection, draft: str, message: Message) -> None:
    """All that an answer consists of so far.

    Raises: HistoryError if its conversation is gone.
    """
    said = message.named()
    done = connection.execute(
        "UPDATE growing SET content = ?, thinking = ?, seconds = ?, facts = ? WHERE id = ?",
        (said.content, said.thinking, pack(said.seconds), json.dumps(said.facts), draft),
    )
    if not done.rowcount:
        raise rows.gone()


def finish(
    connection: sqlite3.Connection,
    session: str,
    draft: str,
    message: Message,
    now: float,
    *,
    indexed: bool,
) -> None:
    """A growing answer becomes a message; the conversation stands at it unless it moved on."""
    grown = connection.execute("SELECT * FROM growing WHERE id = ?", (draft,)).fetchone()
    connection.execute("DELETE FROM growing WHERE id = ?", (draft,))
    rows.update(connection, session, updated=now)
    rows.insert(connection, session, message, indexed=indexed)
    connection.execute(
        "UPDATE sessions SET head = ? WHERE id = ? AND head IS ?",
        (message.id, session, message.parent),
    )
    if grown and grown["replaces"]:
        rows.replace(connection, session, grown["replaces"], message.id, indexed=indexed)


def drop(connection: sqlite3.Connection, draft: str) -> None:
    """A growing answer becomes nothing; the conversation stands where it stood before."""
    grown = connection.execute("SELECT * FROM growing WHERE id = ?", (draft,)).fetchone()
    if grown:
        connection.execute(
            "UPDATE sessions SET head = ? WHERE id = ? AND head IS ?",
            (grown["before"], grown["session"], grown["parent"]),
        )
    connection.execute("DELETE FROM growing WHERE id = ?", (draft,))


def settle(connection: sqlite3.Connection, session: str | None = None, *, indexed: bool) -> None:
    """Answers whose program was killed become messages that end where they were cut off."""
    for row in connection.execute(
        "SELECT * FROM growing WHERE ? IN (session, '')", (session or "",)
    ).fetchall():
        if _alive(row["pid"], row["born"]):
            continue
        if not (row["content"] or row["thinking"]):
            drop(connection, row["id"])
            continue
        kept = {name: row[name] for name in _GROWN}
        named = replace(rows.message(kept), ended="interrupted").named()
        updated = connection.execute(
            "SELECT updated FROM sessions WHERE id = ?", (row["session"],)
        ).fetchone()[0]
        finish(connection, row["session"], row["id"], named, updated, indexed=indexed)


@cache
def myself() -> tuple[int, float]:
    """This process, so that another one can tell whether it still lives; slow the first time."""
    return os.getpid(), _born(os.getpid())


def _born(pid: int) -> float:
    import psutil

    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return -math.inf


def _alive(pid: int, born: float) -> bool:
    return abs(_born(pid) - born) < FUZZ
