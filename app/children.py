"""mlxarch's own commands in processes of their own: the chat reads what they tell, line by line.

What they import would make the keyboard wait, and a process can be stopped at any time.
"""

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

Take = Callable[[dict[str, Any]], object]
Ended = Callable[[int, str], object]  # the exit code, and the last line on stderr


class Child(Protocol):
    """A command that runs."""

    def stop(self) -> None:
        """End it; what it has done stays done."""


class Starter(Protocol):
    """Starts `mlxarch ARGUMENTS`; both functions are called from another thread."""

    def __call__(self, arguments: Sequence[str], take: Take, ended: Ended) -> Child:
        """Start it."""
        ...


class Process:
    """A command that runs as a process."""

    def __init__(self, arguments: Sequence[str], take: Take, ended: Ended):
        self._log = tempfile.TemporaryFile("w+b")  # noqa: SIM115
        self._process = subprocess.Popen(
            # -P: a folder named mlxarch in the working directory is not the package.
            [sys.executable, "-P", "-m", "mlxarch.app", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        self._take, self._ended = take, ended
        threading.Thread(target=self._read, name=arguments[0], daemon=True).start()

    def stop(self) -> None:
        """End it."""
        self._process.terminate()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines, self._log:
            for line in lines:
                with suppress(ValueError):  # not a line of JSON
                    self._take(json.loads(line))
            code = self._process.wait()
            self._log.seek(0)
            words = self._log.read().decode(errors="replace").strip().splitlines()
        self._ended(code, words[-1] if words else "")
