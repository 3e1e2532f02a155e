"""The file of the history: where it is, who may read it, and what is said when it is broken."""

import contextlib
import os
import sqlite3
import time
from collections.abc import Generator
from pathlib import Path

import platformdirs

from .writer import PATIENCE, HistoryError

BROKEN = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class Damaged(HistoryError):  # noqa: N818
    """The file is no database, or a broken one."""


def place() -> Path:
    """Where a person's history is kept."""
    return platformdirs.user_data_path("mlxarch") / "history.db"


def connect(path: Path | None) -> sqlite3.Connection:
    """A connection as all of them are; SQLite gives -wal and -shm the rights of the file."""
    with in_words(path):
        if path is None:
            connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        else:
            _private(path)
            connection = sqlite3.connect(
                path, timeout=PATIENCE, isolation_level=None, check_same_thread=False
            )
    connection.row_factory = sqlite3.Row
    try:
        with in_words(path):
            _tune(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def read_all(path: Path, into: sqlite3.Connection) -> None:
    """Copy all of a file that cannot be written: on a full disk there is no place for a -wal.

    What was said last may be missing, where it is in the -wal of a program that was killed.
    """

    def read(how: str) -> None:
        source = sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True)
        with contextlib.closing(source):
            source.backup(into)

    with in_words(path):
        try:
            read("mode=ro")
        except sqlite3.OperationalError:  # SQLite has no place for its -shm
            read("mode=ro&immutable=1")


def set_aside(path: Path) -> Path:
    """Rename a damaged file, so that another one can begin; its new name."""
    aside = path.with_name(time.strftime(f"{path.stem}-damaged-%Y%m%d-%H%M%S{path.suffix}"))
    with in_words(path):
        for end in ("", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                path.with_name(path.name + end).rename(aside.with_name(aside.name + end))
        with contextlib.suppress(FileNotFoundError):
            pictures(path).rename(pictures(aside))
    return aside


def pictures(path: Path) -> Path:
    """The folder of the pictures that belong to a history's file."""
    return path.with_name(f"{path.stem}-pictures")


@contextlib.contextmanager
def in_words(path: Path | None) -> Generator[None, None, None]:
    """Errors of SQLite and of the disk as our own."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in BROKEN:
            raise Damaged(
                f"{path} is damaged ({error}). Move it away, or restore it from a backup."
            ) from error
        raise HistoryError(f"{path} cannot be used: {error}.") from error
    except OSError as error:
        raise HistoryError(f"{path} cannot be used: {error.strerror or error}.") from error


def _private(path: Path) -> None:
    folder = path.parent
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if path == place() and folder.stat().st_mode & 0o077:  # no other folder is ours alone
        folder.chmod(0o700)
    # A file that exists is not opened here: closing it would take the locks of SQLite with it.
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    if path.stat().st_mode & 0o077:
        path.chmod(0o600)


def _tune(connection: sqlite3.Connection) -> None:
    for pragma in ("foreign_keys = ON", "secure_delete = ON", "synchronous = NORMAL"):
        connection.execute(f"PRAGMA {pragma}")
    end = time.monotonic() + PATIENCE
    while True:  # whoever switches at the same moment is not waited for by SQLite
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
            time.sleep(0.01)
        else:
            return
