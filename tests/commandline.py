"""The command line in the tests' own process, and what it leaves in a folder."""

from pathlib import Path

import pytest

from mlxarch.app.cli import main


def run(monkeypatch, *arguments) -> int:
    """The exit code of `mlxarch ...`."""
    monkeypatch.setattr("sys.argv", ["mlxarch", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code or 0


def contents(folder: Path) -> dict[str, bytes]:
    """The files in a folder, by their names."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}
