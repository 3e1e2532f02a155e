"""The engine process: commands on stdin, events on stdout, talk on stderr.

The main thread owns MLX for life, because MLX's streams and random state belong to a thread. A
second one reads the commands, so that `Stop` is heard while the first is busy. `python -m
mlxarch.app.engine.server` starts it.
"""

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import BinaryIO, cast

from mlxarch.errors import FormatError, MlxarchError

from .protocol import Command, Error, Event, Generate, Quit, Stop, decode, encode

_GRACE = 1.5  # seconds; the app waits a little longer for the process to end


class Inbox:
    """Commands as they arrive, and which answers were cancelled."""

    def __init__(self, stream: BinaryIO):
        self._stream = stream
        self._queue: SimpleQueue[Command | FormatError] = SimpleQueue()
        self._stopped: set[int] = set()
        self._ending = False
        self.grace = 0.0  # seconds that saving may take in the end

    def listen(self) -> None:
        """Read commands until `Quit` or the end of the stream, then end the process.

        Soon, whatever MLX is doing: the engine must not outlive the app. Only where prompts are
        kept, the answer is stopped and what was read is saved first.
        """
        for line in self._stream:
            try:
                command = cast(Command, decode(line))
            except FormatError as error:
                self._queue.put(error)
                continue
            if isinstance(command, Quit):
                break
            if isinstance(command, Stop):
                self._stopped.add(command.id)
                continue
            if isinstance(command, Generate):
                # A Stop that came after the end of an older answer with this id was not for it.
                self._stopped.discard(command.id)
            self._queue.put(command)
        if self.grace:
            self._ending = True
            self._queue.put(Quit())
            time.sleep(self.grace)
        os._exit(0)

    def next(self, patience: float | None = None) -> Command | None:
        """Wait for the next command to carry out; None if there is none for so many seconds.

        Raises: FormatError if a line was none.
        """
        try:
            item = self._queue.get(timeout=patience)
        except Empty:
            return None
        if isinstance(item, FormatError):
            raise item
        return item

    def stopped(self, answer: int) -> bool:
        """Whether an answer was cancelled."""
        return self._ending or answer in self._stopped


def main() -> None:
    """Serve until stdin ends."""
    # Ctrl-C in a terminal reaches every process there; what it means is for the app to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Only events may go where the app listens: what libraries print becomes talk.
    events = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    inbox = Inbox(sys.stdin.buffer)
    threading.Thread(target=inbox.listen, name="commands", daemon=True).start()

    def emit(event: Event) -> None:
        events.write(encode(event))

    try:
        _serve(inbox, emit)
    except BrokenPipeError:
        # Nobody listens any more.
        os._exit(1)


def _serve(inbox: Inbox, emit: Callable[[Event], None]) -> None:
    try:
        from .worker import Worker
    except ImportError as error:
        traceback.print_exc()
        emit(Error(id=None, kind=type(error).__name__, message=str(error), fatal=True))
        os._exit(1)
    worker = Worker(emit, inbox.stopped)
    while True:
        answer: int | None = None
        try:
            command = inbox.next(worker.patience)
            if command is None:
                worker.rest()
                continue
            if isinstance(command, Quit):
                worker.close()
                os._exit(0)
            answer = command.id if isinstance(command, Generate) else None
            worker.handle(command)
            inbox.grace = _GRACE if worker.saves else 0.0
        except MlxarchError as error:
            emit(Error(id=answer, kind=type(error).__name__, message=str(error)))
        except BrokenPipeError:
            raise
        except Exception as error:
            traceback.print_exc()
            emit(Error(id=answer, kind=type(error).__name__, message=str(error) or repr(error)))


if __name__ == "__main__":
    main()
