"""The chat as a person has it: a pseudo-terminal, the real engine, the guide's real weights."""

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time

import psutil
import pyte
import pytest

pytestmark = pytest.mark.slow

COLUMNS, LINES = 100, 30
PATIENCE = 120  # seconds that anything may take on a busy machine


class Terminal:
    """A screen of which one can ask what is on it."""

    def __init__(self, *arguments):
        self.screen = pyte.Screen(COLUMNS, LINES)
        self.stream = pyte.ByteStream(self.screen)
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            environment = {**os.environ, "TERM": "xterm-256color", "HF_HUB_OFFLINE": "1"}
            command = [sys.executable, "-m", "mlxarch.app", *arguments]
            os.execve(sys.executable, command, environment)
        size = struct.pack("HHHH", LINES, COLUMNS, 0, 0)
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, size)

    def type(self, text):
        os.write(self.fd, text.encode())

    @property
    def text(self):
        return "\n".join(self.screen.display)

    def until(self, seen):
        """Read what is drawn until `seen(text)`; what never comes is a failure."""
        end = time.monotonic() + PATIENCE
        while not seen(self.text):
            assert time.monotonic() < end, f"never came; the screen was\n{self.text}"
            self._read(1.0)

    def wait(self):
        """The exit code, once the program has ended."""
        end = time.monotonic() + PATIENCE
        while True:
            self._read(0.1)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = None
                return os.waitstatus_to_exitcode(status)
            assert time.monotonic() < end, f"it does not end; the screen was\n{self.text}"

    def _read(self, seconds):
        if not select.select([self.fd], [], [], seconds)[0]:
            return
        # The other side may have gone.
        with contextlib.suppress(OSError):
            self.stream.feed(os.read(self.fd, 65536))

    def close(self):
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.fd)


@pytest.fixture
def terminal():
    opened = []

    def open_terminal(*arguments):
        opened.append(Terminal(*arguments))
        return opened[-1]

    yield open_terminal
    for one in opened:
        one.close()


def test_mlxarch_alone_opens_the_guide_which_answers_and_is_timed(terminal):
    chat = terminal()
    chat.until(lambda text: "mlxarch guide" in text and "12M" in text)
    assert "small model that is part of mlxarch" in chat.text
    chat.type("How do I convert a model?\r")
    chat.until(lambda text: "mlxarch convert" in text and "tok/s" in text and "first" in text)
    chat.type("and in 4 bits?\r")
    chat.until(lambda text: "--bits 4" in text)
    engines = psutil.Process(chat.pid).children()
    chat.type("\x11")  # Ctrl+Q
    assert chat.wait() == 0
    assert not any(engine.is_running() for engine in engines)
