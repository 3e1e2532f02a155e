"""The disk: the room on it, and files that are there when they are said to be."""

import os
import shutil
from pathlib import Path


def nearest(path: Path) -> Path:
    """What there is already of a path."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())


def free_bytes(path: Path) -> int:
    """The room on the disk where a path lies, or will lie."""
    return shutil.disk_usage(nearest(path)).free


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
