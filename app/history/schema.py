"""The tables, and how a file of an older version becomes one of today's."""

import sqlite3
from pathlib import Path

from .writer import HistoryError, transaction

# One entry for each version; what was released is never changed, only followed by another entry.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """
        CREATE TABLE messages (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            id TEXT NOT NULL UNIQUE,
            parent TEXT REFERENCES messages (id),
            role TEXT NOT NULL,
            content TEXT NOT NULL,
            thinking TEXT NOT NULL,
            model TEXT NOT NULL,
            created REAL NOT NULL,
            ended TEXT,
            seconds BLOB NOT NULL,
            facts TEXT NOT NULL
        )
        """,
        "CREATE INDEX messages_parent ON messages (parent)",
        """
        CREATE TABLE sessions (
            id TEXT PRIMARY KEY,
            title TEXT NOT NULL DEFAULT '',  -- as a person named it
            model TEXT NOT NULL,
            system TEXT,
            created REAL NOT NULL,
            updated REAL NOT NULL,
            head TEXT REFERENCES messages (id),
            draft TEXT NOT NULL DEFAULT '',  -- of the next question
            settings TEXT NOT NULL
        ) WITHOUT ROWID
        """,
        "CREATE INDEX sessions_head ON sessions (head)",
        """
        CREATE TABLE members (  -- which messages are a session's; forks share them
            session TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
            message INTEGER NOT NULL REFERENCES messages (number) ON DELETE CASCADE,
            PRIMARY KEY (session, message)
        ) WITHOUT ROWID
        """,
        "CREATE INDEX members_message ON members (message)",
        """
        CREATE TABLE growing (  -- answers that are still being written
            id TEXT PRIMARY KEY,
            session TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
            parent TEXT REFERENCES messages (id),
            before TEXT,  -- the head to go back to if nothing is said
            replaces TEXT,
            role TEXT NOT NULL,
            content TEXT NOT NULL,
            thinking TEXT NOT NULL,
            model TEXT NOT NULL,
            created REAL NOT NULL,
            seconds BLOB NOT NULL,
            facts TEXT NOT NULL,
            pid INTEGER NOT NULL,  -- of the process that writes it
            born REAL NOT NULL  -- when that process began
        ) WITHOUT ROWID
        """,
        """
        CREATE VIEW searchable AS
        SELECT
            number,
            CASE role WHEN 'user' THEN content ELSE '' END AS prompt,
            CASE role WHEN 'user' THEN '' ELSE content END AS answer
        FROM messages
        """,
    ),
)
VERSION = len(MIGRATIONS)
WEIGHTS = (4.0, 1.0)  # what a word counts in a prompt, and in an answer


def migrate(connection: sqlite3.Connection, path: Path | None) -> None:
    """Bring a file to the newest version, in one transaction.

    Raises: HistoryError if it is of a version that this program does not know; it stays as it is.
    """
    if _version(connection) < VERSION:
        with transaction(connection):
            # Another process may have been quicker.
            for script in MIGRATIONS[_version(connection) :]:
                for statement in script:
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {max(_version(connection), VERSION)}")
    if (version := _version(connection)) > VERSION:
        raise HistoryError(
            f"{path} is of version {version}; this mlxarch knows up to version {VERSION}. "
            "Use the newer mlxarch that wrote it."
        )


def index(connection: sqlite3.Connection) -> bool:
    """Have an index of all words that is up to date; whether this SQLite can."""
    try:
        connection.execute("CREATE VIRTUAL TABLE temp.probe USING fts5 (word)")
        connection.execute("DROP TABLE temp.probe")
    except sqlite3.OperationalError:
        return False
    with transaction(connection):
        connection.execute(
            "CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5 (prompt, answer, "
            "content = 'searchable', content_rowid = 'number', "
            "prefix = '2 3 4', tokenize = 'unicode61 remove_diacritics 2')"
        )
        weights = ", ".join(map(str, WEIGHTS))
        connection.execute(f"INSERT INTO words (words, rank) VALUES ('rank', 'bm25({weights})')")
        # A program without FTS5 may have written or deleted meanwhile.
        counts = "SELECT (SELECT count(*) FROM messages), (SELECT count(*) FROM words_docsize)"
        messages, indexed = connection.execute(counts).fetchone()
        if messages != indexed:
            connection.execute("INSERT INTO words (words) VALUES ('rebuild')")
    return True


def _version(connection: sqlite3.Connection) -> int:
    return connection.execute("PRAGMA user_version").fetchone()[0]
