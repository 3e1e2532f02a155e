"""What is written to the tables, and how rows become messages again."""

import json
import re
import sqlite3
from itertools import count
from typing import Any

from .tree import Conversation, Message, pack, titled, unpack
from .writer import HistoryError

DAY = 86_400  # seconds

_COLUMNS = "id, parent, role, content, thinking, model, created, ended, seconds, facts"
_OF = f"SELECT {_COLUMNS} FROM messages JOIN members ON message = number WHERE session = ?"
MESSAGES = f"{_OF} ORDER BY number"
CHILDREN = f"{_OF} AND parent IS ? ORDER BY number"
THREAD = f"""
WITH RECURSIVE branch (name, depth) AS (
    SELECT ?, 0
    UNION ALL
    SELECT parent, depth + 1 FROM branch JOIN messages ON id = name WHERE parent NOT NULL
)
SELECT {_COLUMNS} FROM branch JOIN messages ON id = name ORDER BY depth
"""
AFTER = """
WITH RECURSIVE below (name) AS (
    SELECT ? UNION SELECT id FROM below JOIN messages ON parent = name
)
SELECT number, parent FROM below JOIN messages ON id = name JOIN members ON message = number
WHERE session = ? ORDER BY number
"""
FIRST = """
(SELECT substr(content, 1, 400) FROM messages JOIN members ON message = number
 WHERE session = sessions.id AND role = 'user' ORDER BY number LIMIT 1)
"""
QUESTIONS = "SELECT content FROM messages WHERE role = 'user' ORDER BY number DESC LIMIT ?"
SESSION = f"SELECT *, {FIRST} AS first FROM sessions WHERE id = ?"


def message(row: sqlite3.Row | dict[str, Any]) -> Message:
    """A row of messages."""
    found: dict[str, Any] = dict(row)
    found["seconds"], found["facts"] = unpack(found["seconds"]), json.loads(found["facts"])
    return Message(**found)


def title(row: sqlite3.Row) -> str:
    """What a conversation is called."""
    return row["title"] or titled(row["first"] or row["draft"]) or "(empty)"


def conversation(row: sqlite3.Row, messages: list[Message]) -> Conversation:
    """A row of sessions, with its messages."""
    found = {key: row[key] for key in ("id", "model", "system", "created", "updated", "head")}
    return Conversation(
        **found,
        title=title(row),
        draft=row["draft"],
        settings=json.loads(row["settings"]),
        messages={message.id: message for message in messages},
    )


def begin(
    connection: sqlite3.Connection,
    session: str,
    now: float,
    *,
    model: str,
    system: str | None,
    settings: dict[str, Any],
) -> None:
    """A conversation without messages."""
    connection.execute(
        "INSERT INTO sessions (id, model, system, created, updated, settings) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        (session, model, system, now, now, json.dumps(settings)),
    )


def update(connection: sqlite3.Connection, session: str, **changes: Any) -> None:
    """Set columns of a conversation.

    Raises: HistoryError if it is gone.
    """
    if "settings" in changes:
        changes["settings"] = json.dumps(changes["settings"])
    columns = ", ".join(f"{name} = ?" for name in changes)
    done = connection.execute(
        f"UPDATE sessions SET {columns} WHERE id = ?", (*changes.values(), session)
    )
    if not done.rowcount:
        raise gone()


def gone() -> HistoryError:
    """What is to be written belongs to a conversation that is no longer there."""
    return HistoryError("this conversation was deleted meanwhile; a new one (Ctrl+N) is saved.")


def add(connection: sqlite3.Connection, session: str, message: Message, *, indexed: bool) -> None:
    """A message, which the conversation stands at from now on.

    Raises: HistoryError if the conversation is gone.
    """
    update(connection, session, updated=message.created)
    insert(connection, session, message, indexed=indexed)
    update(connection, session, head=message.id)


def insert(
    connection: sqlite3.Connection, session: str, message: Message, *, indexed: bool
) -> None:
    """A message of a conversation, and its words in the index."""
    values = [getattr(message, name) for name in _COLUMNS.split(", ")]
    values[-2:] = pack(message.seconds), json.dumps(message.facts)
    new = connection.execute(
        f"INSERT OR IGNORE INTO messages ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        values,
    ).rowcount
    number = connection.execute(
        "SELECT number FROM messages WHERE id = ?", (message.id,)
    ).fetchone()[0]
    if new and indexed:
        connection.execute(
            "INSERT INTO words (rowid, prompt, answer) "
            "SELECT number, prompt, answer FROM searchable WHERE number = ?",
            (number,),
        )
    connection.execute("INSERT OR IGNORE INTO members VALUES (?, ?)", (session, number))


def tidy(connection: sqlite3.Connection, now: float) -> None:
    """Forget conversations that nothing was ever said in."""
    connection.execute(
        "DELETE FROM sessions WHERE draft = '' AND title = '' AND updated < ? "
        "AND id NOT IN (SELECT session FROM members) AND id NOT IN (SELECT session FROM growing)",
        (now - DAY,),
    )


def fork(
    connection: sqlite3.Connection, session: str, message: str | None, into: str, now: float
) -> None:
    """Another conversation with the same past up to a message."""
    connection.execute(
        "INSERT INTO sessions (id, title, model, system, created, updated, head, settings) "
        "SELECT ?, ?, model, system, ?, ?, ?, settings FROM sessions WHERE id = ?",
        (
            into,
            _another(connection, session, "Fork") if message else "",
            now,
            now,
            message,
            session,
        ),
    )
    for row in connection.execute(THREAD, (message,)).fetchall():
        connection.execute(
            "INSERT INTO members SELECT ?, number FROM messages WHERE id = ?", (into, row["id"])
        )


def copy(connection: sqlite3.Connection, session: str, into: str, now: float) -> None:
    """Another conversation that stands where one does, with all its branches."""
    connection.execute(
        "INSERT INTO sessions (id, title, model, system, created, updated, head, settings) "
        "SELECT ?, ?, model, system, ?, updated, head, settings FROM sessions WHERE id = ?",
        (into, _another(connection, session, "Copy"), now, session),
    )
    connection.execute(
        "INSERT INTO members SELECT ?, message FROM members WHERE session = ?", (into, session)
    )


def _another(connection: sqlite3.Connection, session: str, kind: str) -> str:
    """What a fork or a copy of a conversation is called: as no other one is.

    That it is one comes first, as a list may have no room for all of a title.
    """
    row = connection.execute(SESSION, (session,)).fetchone()
    if not (row and (base := row["title"] or titled(row["first"] or ""))):
        return ""
    base = re.sub(rf"^{kind}( \d+)? of ", "", base)
    taken = {one["title"] for one in connection.execute("SELECT title FROM sessions")}
    names = (f"{kind}{f' {number}' if number > 1 else ''} of {base}" for number in count(1))
    return next(name for name in names if name not in taken)


def delete(connection: sqlite3.Connection, session: str, *, indexed: bool) -> None:
    """Delete a conversation and the messages that no other one has."""
    own = connection.execute(
        "SELECT message FROM members AS mine WHERE session = ? AND NOT EXISTS "
        "(SELECT 1 FROM members WHERE message = mine.message AND session <> mine.session)",
        (session,),
    ).fetchall()
    connection.execute("DELETE FROM sessions WHERE id = ?", (session,))
    _forget(connection, [row["message"] for row in own], indexed=indexed)


def remove(connection: sqlite3.Connection, session: str, message: str, *, indexed: bool) -> None:
    """Delete a message of a conversation and all after it; it stands before them then."""
    found = connection.execute(AFTER, (message, session)).fetchall()
    numbers = [row["number"] for row in found]
    if numbers:
        update(connection, session, head=found[0]["parent"])
    marks = ", ".join("?" * len(numbers))
    connection.execute(
        f"DELETE FROM members WHERE session = ? AND message IN ({marks})", (session, *numbers)
    )
    lonely = connection.execute(
        f"SELECT number FROM messages WHERE number IN ({marks}) "
        "AND number NOT IN (SELECT message FROM members)",
        numbers,
    ).fetchall()
    _forget(connection, [row["number"] for row in lonely], indexed=indexed)


def replace(
    connection: sqlite3.Connection, session: str, old: str, new: str, *, indexed: bool
) -> None:
    """Forget a message that another one goes on from, unless something was said after it."""
    children = (
        "SELECT 1 FROM messages JOIN members ON message = number WHERE session = ? AND parent = ?",
        "SELECT 1 FROM growing WHERE session = ? AND parent = ?",
    )
    if any(connection.execute(sql, (session, old)).fetchone() for sql in children):
        return
    for where in (
        "sessions SET head = ? WHERE head = ? AND id = ?",
        "growing SET before = ? WHERE before = ? AND session = ?",
    ):
        connection.execute(f"UPDATE {where}", (new, old, session))
    connection.execute(
        "DELETE FROM members WHERE session = ? "
        "AND message = (SELECT number FROM messages WHERE id = ?)",
        (session, old),
    )
    lonely = connection.execute(
        "SELECT number FROM messages WHERE id = ? AND number NOT IN (SELECT message FROM members)",
        (old,),
    ).fetchall()
    _forget(connection, [row["number"] for row in lonely], indexed=indexed)


def _forget(connection: sqlite3.Connection, numbers: list[int], *, indexed: bool) -> None:
    """Delete messages, youngest first, and their words from the index."""
    for number in sorted(numbers, reverse=True):
        if indexed:
            connection.execute(
                "INSERT INTO words (words, rowid, prompt, answer) "
                "SELECT 'delete', number, prompt, answer FROM searchable WHERE number = ?",
                (number,),
            )
        connection.execute("DELETE FROM messages WHERE number = ?", (number,))
    if indexed and numbers:
        # A word that is only marked as deleted could still be read in the file.
        connection.execute("INSERT INTO words (words) VALUES ('optimize')")
