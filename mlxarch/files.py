"""Files of a checkpoint's folder, none of which is trusted.

What is no file, or a link out of the folder, is not opened; what is too large or nested too deep is
not read. The hub's cache is links into the blobs of the same repository: those stay allowed.
"""

import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

from .errors import FormatError

# What reading a damaged JSON file as if it were sound may raise.
DAMAGE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)

# Tokenizers and templates, which libraries read by themselves.
_READ = (".json", ".jsonl", ".jinja", ".model", ".txt", ".tiktoken")
_JSON_LIMIT = 16_000_000  # bytes
_JSON_DEPTH = 64


def local(name: str) -> Path:
    """A path as a person writes it: `~` is a home, unless nobody is called so."""
    # Path.expanduser would raise.
    return Path(os.path.expanduser(name))


def is_model(folder: Path) -> bool:
    """Whether a config.json is there; a name that no folder could have is none."""
    return os.path.isfile(folder / "config.json")


def read_json(file: Path, limit: int = _JSON_LIMIT) -> dict[str, Any]:
    """A JSON object in at most `limit` bytes.

    Raises: FormatError; FileNotFoundError.
    """
    try:
        raw = _parse(file, limit)
    except FileNotFoundError:
        raise
    except (OSError, *DAMAGE) as error:
        raise FormatError(f"{file} cannot be read as JSON: {error}.") from error
    if not isinstance(raw, dict):
        raise FormatError(f"{file} holds a {type(raw).__name__}; an object is wanted.")
    return raw


def open_file(file: Path) -> BinaryIO:
    """A file, to be read.

    Raises: FormatError if it is no file, or a link that leads out of its folder; OSError.
    """
    check_inside(file)
    # A pipe that nobody writes to would keep us waiting.
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FormatError(f"{file} is a folder, a pipe or a device; a file is wanted.")
    return os.fdopen(descriptor, "rb")


def check_folder(folder: Path) -> None:
    """Refuse what others would open by its name: a link out of the folder, a pipe, a device.

    Raises: FormatError.
    """
    near = [*folder.glob("*"), *folder.glob("additional_chat_templates/*")]
    for file in near:
        if file.suffix in _READ and not file.is_dir():
            check_inside(file, folder)
            if os.path.exists(file) and not file.is_file():
                raise FormatError(f"{file} is a pipe or a device; a file is wanted.")


def check_inside(file: Path, folder: Path | None = None) -> None:
    """Refuse a link that leads out of a folder, by default its own.

    Raises: FormatError.
    """
    folder = Path(os.path.realpath(file.parent if folder is None else folder))
    real = Path(os.path.realpath(file))
    if not any(real.is_relative_to(root) for root in (folder, *_repository(folder))):
        raise FormatError(
            f"{file} is a link to {real}, outside of the checkpoint; put the file itself there."
        )


def _repository(folder: Path) -> list[Path]:
    """The hub's cache of one repository, if a folder is in a snapshot of it."""
    return [
        snapshots.parent
        for snapshots in folder.parents
        if snapshots.name == "snapshots" and snapshots.parent.name.startswith("models--")
    ]


def _parse(file: Path, limit: int) -> Any:
    """What a JSON file holds. Raises: FormatError if it is no file; OSError or any of `DAMAGE`."""
    with open_file(file) as stream:
        text = stream.read(limit + 1)
    if len(text) > limit:
        raise ValueError(f"it has more than {limit:,} bytes")
    level = [parsed := json.loads(text)]
    for _ in range(_JSON_DEPTH):
        level = [
            value
            for outer in level
            if isinstance(outer, dict | list)
            for value in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return parsed
    raise ValueError(f"it is nested more than {_JSON_DEPTH} deep")
