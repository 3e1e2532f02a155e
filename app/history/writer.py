"""One thread that writes, so that nobody else waits for the disk."""

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Generator, Hashable

from mlxarch.errors import MlxarchError

Work = Callable[[sqlite3.Connection], object]
After = tuple[Callable[[], object]]  # what is called once all before it is written

INTERVAL = 0.4  # seconds that a draft may be late
PATIENCE = 5.0  # seconds to wait for another process, or for the disk at the end
AGAIN = 1.0  # seconds until what failed is tried again


class HistoryError(MlxarchError):
    """The history cannot be read or written, or does not hold what was asked for."""


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Generator[None, None, None]:
    """All of it or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


class Writer:
    """Does what it is handed in order, many things in one transaction.

    What fails for a reason that may pass (a full disk, a lock) is tried again until it succeeds.

    Args:
        connection: Nobody else's while `lock` is held.
        told: Hears, in the writer's thread, what is wrong, and "" once all is well again.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        lock: threading.RLock,
        told: Callable[[str], object],
    ):
        self._connection, self._lock, self._told = connection, lock, told
        self._guard = threading.Condition()
        self._queue: list[Work | After] = []
        self._later: dict[Hashable, Work] = {}
        self._due: float | None = None  # when `_later` joins the queue
        self._closing = threading.Event()
        self.trouble = ""
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)
        self._thread.start()

    def put(self, work: Work, key: Hashable = None) -> None:
        """Do this next; what is still to come under `key` is dropped."""
        with self._guard:
            self._later.pop(key, None)
            self._queue.append(work)
            self._guard.notify()

    def soon(self, key: Hashable, work: Work, late: float = INTERVAL) -> None:
        """Do this `late` seconds from now at most, or what comes under the same key until then."""
        due = time.monotonic() + late
        with self._guard:
            self._later[key] = work
            if self._due is None or due < self._due:
                self._due = due
                self._guard.notify()

    def after(self, call: Callable[[], object]) -> None:
        """Call this in the writer's thread, once all that was handed over is written."""
        with self._guard:
            self._hurry()
            self._queue.append((call,))
            self._guard.notify()

    def flush(self, seconds: float = PATIENCE) -> bool:
        """Wait until all that was handed over is on disk; whether it is."""
        written = threading.Event()
        self.after(written.set)
        return written.wait(seconds)

    def close(self) -> bool:
        """Write what there is, and end; whether it has ended, which a stuck disk may prevent."""
        with self._guard:
            self._closing.set()
            self._guard.notify()
        self._thread.join(6 * PATIENCE)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while batch := self._next():
            self._write([work for work in batch if not isinstance(work, tuple)])
            for after in batch:
                if isinstance(after, tuple):
                    after[0]()

    def _next(self) -> list[Work | After]:
        """What is to be done now; nothing once all is done and it is to end."""
        with self._guard:
            while True:
                wait = None if self._due is None else self._due - time.monotonic()
                if self._closing.is_set() or (wait is not None and wait <= 0):
                    self._hurry()
                if self._queue or self._closing.is_set():
                    batch, self._queue = self._queue, []
                    return batch
                self._guard.wait(wait if self._due else None)

    def _hurry(self) -> None:
        self._queue += self._later.values()
        self._later.clear()
        self._due = None

    def _write(self, works: list[Work]) -> None:
        while works:
            last = self._closing.is_set()
            try:
                with self._lock, transaction(self._connection):
                    for work in works:
                        work(self._connection)
            except sqlite3.OperationalError as error:
                self._tell(f"Not saved: {error}. What is said is kept in memory until it can be.")
                if last:
                    return
                self._closing.wait(AGAIN)
            except Exception as error:  # whatever it is, what comes after it is saved
                if len(works) == 1:
                    self._tell(f"Not saved: {str(error).rstrip('.')}.")
                    return
                for work in works:
                    self._write([work])
                return
            else:
                self._tell("")
                return

    def _tell(self, trouble: str) -> None:
        if trouble != self.trouble:
            self.trouble = trouble
            self._told(trouble)
