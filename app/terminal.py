"""The terminal that an app is drawn on: it may go away, and somebody types before it is drawn."""

import os
import re
import select
import termios
from codecs import IncrementalDecoder, getincrementaldecoder
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from enum import Enum
from functools import partial
from threading import Thread
from time import sleep

_KEYS = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|O.|[^\[O])?|[^\n\t -\ud7ff\ue000-\U0010ffff]")


def is_dumb() -> bool:
    """The terminal obeys no escape sequences, as far as anybody says."""
    return os.environ.get("TERM", "") in ("", "dumb", "unknown")


@contextmanager
def listening(fd: int = 0) -> Generator[str]:
    """A terminal that hands on keys as they are pressed; yields what was typed into it before.

    Until then it has made Enter a new line, and has shown what is typed, below the command. Keys
    without a letter are left out of it; nothing is done where there is no terminal.
    """
    if not os.isatty(fd):
        yield ""
        return
    before = termios.tcgetattr(fd)
    bare = [*before]
    bare[0] &= ~termios.ICRNL
    bare[3] &= ~(termios.ECHO | termios.ICANON)
    termios.tcsetattr(fd, termios.TCSANOW, bare)
    try:
        yield _KEYS.sub("", _waiting(fd).decode(errors="ignore"))
    finally:
        with suppress(termios.error):  # it is gone
            termios.tcsetattr(fd, termios.TCSANOW, before)


class _Keys(Enum):
    ALT_ENTER = "alt+enter"


def read_all_keys() -> None:
    """Have Textual read what is no UTF-8, too, and tell Alt+Enter from Enter.

    A single byte of the former would end the app. Most terminals send the latter as Esc and Enter.
    """
    from textual import _xterm_parser
    from textual.drivers import linux_driver, linux_inline_driver

    known = {**_xterm_parser.ANSI_SEQUENCES_KEYS, "\x1b\r": (_Keys.ALT_ENTER,)}
    vars(_xterm_parser)["ANSI_SEQUENCES_KEYS"] = known

    def decoder(name: str) -> Callable[[], IncrementalDecoder]:
        return partial(getincrementaldecoder(name), errors="replace")

    for driver in (linux_driver, linux_inline_driver):
        vars(driver)["getincrementaldecoder"] = decoder


def _waiting(fd: int) -> bytes:
    found = b""
    while select.select([fd], [], [], 0)[0] and (read := os.read(fd, 65536)):
        found += read
    return found


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
