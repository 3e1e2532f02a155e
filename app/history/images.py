"""Copies of the pictures that were shown, by their hashes: a conversation has them still when a
file has changed or is gone. Their owner alone can read them.
"""

import contextlib
import os
import re
import sqlite3
import tempfile
import time
from pathlib import Path
from secrets import token_hex

from . import file

_FRESH = 10  # seconds in which the question that brings a picture along is certainly written


class Images:
    """The folder of one history.

    Args:
        path: The history's file; None if nothing outlives the program.
        past: A file whose pictures are there, too, and stay as they are.
    """

    def __init__(self, path: Path | None, past: Path | None = None):
        self._folder = file.pictures(path) if path else None
        self._past = file.pictures(past) if past else None
        self._passing: tempfile.TemporaryDirectory[str] | None = None

    @property
    def folder(self) -> Path:
        """Where they lie."""
        if self._folder is None:
            self._passing = tempfile.TemporaryDirectory(prefix="mlxarch-")
            self._folder = Path(self._passing.name)
        return self._folder

    def path(self, sha256: str) -> Path:
        """Where the copy of a picture is, if it is there."""
        if self._past and (there := self._past / sha256).exists():
            return there
        return self.folder / sha256

    def keep(self, raw: bytes, sha256: str) -> None:
        """Have a copy of a picture.

        Raises: OSError.
        """
        path = self.path(sha256)
        self.folder.mkdir(mode=0o700, exist_ok=True)
        if path.exists():
            os.utime(path)
            return
        draft = self.folder / f"{token_hex(8)}.part"
        try:
            handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as out:
                out.write(raw)
            draft.rename(path)
        except OSError:
            draft.unlink(missing_ok=True)
            raise

    def sweep(self, connection: sqlite3.Connection) -> None:
        """Delete those that no message tells of any more."""
        if self._folder is None or not self._folder.is_dir():
            return
        # What is busy or not allowed now is deleted another time.
        with contextlib.suppress(sqlite3.OperationalError, OSError):
            rows = connection.execute("SELECT content FROM messages WHERE content LIKE '%SHA-256%'")
            told = {found for row in rows for found in re.findall("[0-9a-f]{64}", row["content"])}
            for path in self._folder.iterdir():
                if path.name not in told and time.time() - path.stat().st_mtime > _FRESH:
                    path.unlink()

    def close(self) -> None:
        """Let go of what is not to outlive the program."""
        if self._passing is not None:
            self._passing.cleanup()
