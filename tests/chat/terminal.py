"""A pseudo-terminal with mlxarch in it: the real engine, the guide's real weights."""

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

# An update of the screen is shown when it is whole: the program asks for it, this is the answer.
ASKS_FOR_WHOLE, HAS_WHOLE = b"\x1b[?2026$p", b"\x1b[?2026;2$y"
UPDATING = 2026 << 5  # the mode, as pyte counts
PATIENCE = 300  # seconds that anything may take on a machine with much else to do
KEYS = {
    "enter": "\r",
    "escape": "\x1b",
    "up": "\x1b[A",
    "down": "\x1b[B",
    "right": "\x1b[C",
    "left": "\x1b[D",
    **{f"ctrl+{letter}": chr(ord(letter) & 31) for letter in "abcdefghijklmnopqrstuvwxyz"},
}


class Terminal:
    """A screen of which one can ask what is on it."""

    def __init__(self, *arguments, size=(100, 30)):
        columns, lines = size
        self.screen = pyte.Screen(columns, lines)
        self.stream = pyte.ByteStream(self.screen)
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            environment = {**os.environ, "TERM": "xterm-256color", "HF_HUB_OFFLINE": "1"}
            for size in ("COLUMNS", "LINES"):  # of the terminal that the tests run in
                environment.pop(size, None)
            command = [sys.executable, "-m", "mlxarch.app", *arguments]
            os.execve(sys.executable, command, environment)
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def type(self, text):
        self.type_bytes(text.encode())

    def type_bytes(self, letters):
        os.write(self.fd, letters)

    def press(self, *keys):
        for key in keys:
            self.type(KEYS[key])

    @property
    def text(self):
        return "\n".join(self.screen.display)

    def until(self, seen):
        """Read what is drawn until `seen(text)`; what never comes is a failure."""
        end = time.monotonic() + PATIENCE
        while UPDATING in self.screen.mode or not seen(self.text):
            assert time.monotonic() < end, f"never came; the screen was\n{self.text}"
            self._read(1.0)

    def sees(self, *texts):
        """Wait until all `texts` are on the screen at once."""
        self.until(lambda text: all(one in text for one in texts))

    def loses(self, *texts):
        """Wait until none of `texts` is on the screen."""
        self.until(lambda text: not any(one in text for one in texts))

    def engine(self):
        """The process of the engine that runs now."""
        (engine,) = psutil.Process(self.pid).children()
        return engine

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
            drawn = os.read(self.fd, 65536)
            self.stream.feed(drawn)
            if ASKS_FOR_WHOLE in drawn:
                self.type_bytes(HAS_WHOLE)

    def kill(self):
        """End the program as the kernel does when memory is out."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.pid = None

    def close(self):
        if self.pid is not None:
            self.kill()
        os.close(self.fd)
