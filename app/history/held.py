"""Which conversations are open somewhere: a locked file for each.

The system frees the lock of a process that is killed, too.
"""

import fcntl
import os
from contextlib import suppress
from pathlib import Path


class Held:
    """The one conversation that a window has open.

    Args:
        path: The history's file; None if it has none, and no other window.
    """

    def __init__(self, path: Path | None):
        self._folder = path and path.parent / "open"
        self._file: tuple[int, Path] | None = None

    def take(self, session: str) -> bool:
        """Let go of the last one and hold this one, unless another window does."""
        self.release()
        if self._folder is None:
            return True
        path, file = self._folder / session, -1
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if file >= 0:
                os.close(file)
            return not isinstance(error, BlockingIOError)  # else nobody can tell
        self._file = file, path
        return True

    def elsewhere(self) -> set[str]:
        """The conversations that other windows have open."""
        found = set()
        with suppress(OSError):  # there is no such folder
            for path in self._folder.iterdir() if self._folder else ():
                if not (self._file and self._file[1] == path) and _locked(path):
                    found.add(path.name)
        return found

    def release(self) -> None:
        """No window has it open any more."""
        if self._file:
            file, path = self._file
            self._file = None
            path.unlink(missing_ok=True)
            os.close(file)


def _locked(path: Path) -> bool:
    try:
        file = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # nobody can tell
        return False
    finally:
        os.close(file)
    return False
