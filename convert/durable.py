"""Files that are on the disk when they are said to be."""

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(file: Path, text: str) -> None:
    """Write a file whole or not at all, with one line's end at its end."""
    beside = file.with_name(f".{file.name}.new")
    beside.write_text(f"{text.rstrip()}\n", encoding="utf-8")
    sync(beside)
    beside.replace(file)
    sync(file.parent)
