"""Lists of conversations, and which of them hold the words of a query."""

import re
import sqlite3
import unicodedata
from typing import NamedTuple

from . import rows
from .tree import FOUND, Summary, clean
from .writer import HistoryError

LETTERS = 100  # of a snippet
MOST = 50  # places in a message that are looked at
UNIT = re.compile(r'"([^"]+)"?|(\S+)')


LIST = f"""
SELECT *, {rows.FIRST} AS first,
    (SELECT count(*) FROM members WHERE session = sessions.id) AS messages
FROM sessions
WHERE draft <> '' OR title <> '' OR EXISTS (SELECT 1 FROM members WHERE session = sessions.id)
ORDER BY updated DESC, id
"""
TITLED = -20.0  # the score of a word in a title; the lower, the better


class Hit(NamedTuple):
    """A message that holds a word, or a title if it has no number."""

    session: str
    number: int
    score: float


def session(connection: sqlite3.Connection, start: str) -> str:
    """The one id that begins with `start`.

    Raises: HistoryError if none does, or several do.
    """
    found = connection.execute(
        "SELECT id FROM sessions WHERE substr(id, 1, ?) = ? ORDER BY id", (len(start), start)
    )
    ids = [row["id"] for row in found]
    if start in ids:
        return start
    if not start or not ids:
        raise HistoryError(f"No conversation has the id {start!r}; `mlxarch history` lists them.")
    if len(ids) > 1:
        listed = ", ".join(ids[:4]) + (", ..." if len(ids) > 4 else "")
        raise HistoryError(f"{start!r} begins several ids: {listed}. Give more of it.")
    return ids[0]


def sessions(
    connection: sqlite3.Connection, query: str, limit: int, *, indexed: bool
) -> list[Summary]:
    """Conversations, the last one first, or those that hold all of a query, best first."""
    if not query.strip():
        return [_summary(row) for row in connection.execute(f"{LIST} LIMIT ?", (limit,))]
    units = _units(query)
    best: dict[str, Hit] = {}
    scores: list[dict[str, float]] = []
    for at, unit in enumerate(units):
        scores.append({})
        for hit in _hits(connection, unit, last=at == len(units) - 1, indexed=indexed):
            session = hit.session
            scores[-1][session] = min(hit.score, scores[-1].get(session, 0.0))
            if hit.number and (session not in best or hit.score < best[session].score):
                best[session] = hit
    ranks = {
        session: sum(score[session] for score in scores)
        for session in (set.intersection(*map(set, scores)) if scores else ())
    }
    found = [row for row in connection.execute(LIST) if row["id"] in ranks]
    found.sort(key=lambda row: ranks[row["id"]])
    return [
        _summary(row, _snippet(connection, best.get(row["id"]), units)) for row in found[:limit]
    ]


def _units(query: str) -> list[str]:
    """The words of a query, and what is in quotes as one."""
    return [quoted or word for quoted, word in UNIT.findall(clean(query).replace("\0", " "))]


def _hits(connection: sqlite3.Connection, unit: str, *, last: bool, indexed: bool) -> list[Hit]:
    """Where a unit is: by the index, or letter by letter if the index does not know it."""
    parts = "%" + re.sub(r"([%_\\])", r"\\\1", unit) + "%"
    titles = connection.execute(
        "SELECT id, 0, ? FROM sessions WHERE title LIKE ? ESCAPE '\\'", (TITLED, parts)
    )
    hits = [Hit(*row) for row in titles]
    of = "SELECT session, message, {} FROM {} JOIN members ON message = {} WHERE {}"
    if indexed:
        sql = of.format("rank", "words", "words.rowid", "words MATCH ?")
        prefix = last and len(unit) > 1
        hits += [Hit(*row) for row in connection.execute(sql, (_quoted(unit, prefix),))]
    if not hits:
        sql = of.format("-1.0", "messages", "number", "content LIKE ? ESCAPE '\\'")
        hits = [Hit(*row) for row in connection.execute(sql, (parts,))]
    return hits


def _quoted(unit: str, prefix: bool) -> str:
    """A unit as FTS5 reads it; no word of a person is an operator."""
    return '"' + unit.replace('"', '""') + '"' + ("*" if prefix else "")


def _snippet(connection: sqlite3.Connection, hit: Hit | None, units: list[str]) -> str:
    """A line of a message around what was found.

    FTS5's own would look the words up again for each message, which takes seconds.
    """
    if hit is None:
        return ""
    (text,) = connection.execute(
        "SELECT content FROM messages WHERE number = ?", (hit.number,)
    ).fetchone()
    line = " ".join(text.split())
    folded = _fold(line)
    words = "|".join(re.escape(_fold(unit)) for unit in sorted(units, key=len, reverse=True))
    whole = rf"(?<!\w)(?:{re.escape(_fold(units[-1]))}\w*|(?:{words})(?!\w))"
    found = [*re.finditer(whole, folded)] or [*re.finditer(words, folded)]

    def told(first: re.Match[str]) -> int:
        """How many of the words are near one of them."""
        near = (one for one in found if 0 <= one.start() - first.start() < LETTERS // 2)
        return len({one[0] for one in near})

    first = max(found[:MOST], key=told).start() if found else 0
    start = max(first - LETTERS // 3, 0)
    end = start + LETTERS
    parts, at = ["…" if start else ""], start
    for one in found:
        if start <= one.start() and one.end() <= end:
            parts += [line[at : one.start()], FOUND[0], line[one.start() : one.end()], FOUND[1]]
            at = one.end()
    return "".join([*parts, line[at:end], "…" if end < len(line) else ""])


def _fold(text: str) -> str:
    """Letters without case and accents, one for each."""
    return "".join(unicodedata.normalize("NFD", letter)[0].lower()[:1] for letter in text)


def _summary(row: sqlite3.Row, snippet: str = "") -> Summary:
    return Summary(
        id=row["id"],
        title=rows.title(row),
        model=row["model"],
        messages=row["messages"],
        created=row["created"],
        updated=row["updated"],
        snippet=snippet,
    )
