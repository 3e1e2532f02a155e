"""The terminal that an app is drawn on, which may go away."""

import os
from collections.abc import Callable
from threading import Thread
from time import sleep


def when_gone(act: Callable[[], object], fd: int = 0, every: float = 1.0) -> None:
    """Do something, in a thread, once a terminal is no longer there; nothing if it is none.

    Who ignores SIGHUP, after `nohup` say, is not told otherwise: reading says "nothing" at once,
    again and again, and writing fails.

    Args:
        fd: The terminal, stdin's if not told.
        every: Seconds between two looks.
    """

    def look() -> None:
        while os.isatty(fd):
            sleep(every)
        act()

    if os.isatty(fd):
        Thread(target=look, name="terminal", daemon=True).start()
