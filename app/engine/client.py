"""The app's end of the engine: start it, speak to it, end it."""

import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from threading import Lock
from typing import IO, Self, cast

from .protocol import Command, Event, Quit, decode, encode

_PATIENCE = 2.0  # seconds that an engine may take to end
_TAIL = 4096  # bytes of the log


class Engine:
    """A running engine process.

    `send` may be called from any thread, `receive` from one. Once the process is gone, `receive`
    says so and `send` does nothing.
    """

    def __init__(self, process: subprocess.Popen[bytes], log: IO[bytes]):
        assert process.stdin is not None
        assert process.stdout is not None
        self._process, self._log = process, log
        self._commands, self._events = process.stdin, process.stdout
        self._lock = Lock()

    @classmethod
    def start(cls) -> Self:
        """Start the process; it imports MLX while its caller goes on."""
        # The log has no name and ends with the two processes: nothing is left behind.
        log = tempfile.TemporaryFile("a+b")  # noqa: SIM115
        process = subprocess.Popen(
            # -P: a folder named mlxarch in the working directory is not the package.
            [sys.executable, "-P", "-m", "mlxarch.app.engine.server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            # Models are fetched before they are loaded.
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
        return cls(process, log)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """How the process ended, negative for a signal; None while it runs."""
        return self._process.poll()

    def send(self, command: Command) -> None:
        """Hand over a command."""
        line = encode(command)
        # OSError: the process is gone; ValueError: `close` was called. `receive` tells.
        with self._lock, suppress(OSError, ValueError):
            self._commands.write(line)
            self._commands.flush()

    def receive(self) -> Event | None:
        """Wait for the next event; None once the process is gone.

        Raises: FormatError if something else than an event came.
        """
        try:
            line = self._events.readline()
        except ValueError:  # `close` was called
            return None
        if line.endswith(b"\n"):
            return cast(Event, decode(line))
        self._wait()
        return None

    def log_tail(self) -> str:
        """The last lines that the process logged."""
        if self._log.closed:
            return ""
        # The position in the file is shared with the process, so it must not be moved.
        end = os.fstat(self._log.fileno()).st_size
        tail = os.pread(self._log.fileno(), _TAIL, max(0, end - _TAIL))
        return tail.decode(errors="replace").strip()

    def close(self) -> None:
        """End the process: politely, then by force."""
        self.send(Quit())
        with self._lock, suppress(OSError):
            self._commands.close()
        self._wait()
        self._events.close()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _wait(self) -> None:
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
