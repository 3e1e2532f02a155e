"""Files that a question brings along."""

import re
from pathlib import Path
from typing import BinaryIO

from mlxarch.errors import FormatError
from mlxarch.words import size

MOST = 16_000_000  # bytes; what the longest context holds is a fraction of it
_SHOWN = 8  # bytes of what is no text
_PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".heic", ".tiff")


def attached(file: Path, model: str) -> str:
    """A text file as a model reads it: its name, and its text between fences.

    Args:
        model: What people call the one that is asked.

    Raises: FormatError if it cannot be read, or is no text.
    """
    if file.suffix.lower() in _PICTURES:
        raise FormatError(
            f"{file} is a picture, and {model} cannot see it: only the part of a model that "
            "reads text is run so far. Ask without it."
        )
    try:
        with file.open("rb") as opened:
            raw = read(opened, str(file))
    except OSError as error:
        raise FormatError(f"{file} cannot be read: {error.strerror or error}.") from error
    text = _decoded(file, raw).rstrip("\n")
    # Longer than any fence inside.
    fence = max(("`" + run for run in re.findall("`+", text)), key=len, default="").ljust(3, "`")
    return f"File {file}:\n{fence}\n{text}\n{fence}"


def read(stream: BinaryIO, name: str) -> bytes:
    """All of a stream, which may be one that never ends.

    Raises: FormatError if it is longer than any model could read.
    """
    raw = stream.read(MOST + 1)
    if len(raw) > MOST:
        raise FormatError(
            f"{name} is longer than {size(MOST)}; no model's context holds that. Give a part of it."
        )
    return raw


def _decoded(file: Path, raw: bytes) -> str:
    encoding = "utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        where = raw[error.start : error.start + _SHOWN].hex(" ")
        raise FormatError(
            f"{file} is no text: byte {error.start:,} and what follows, {where}, is not UTF-8. "
            "Only text files can be attached."
        ) from error
    if "\0" in text:
        raise FormatError(
            f"{file} is no text: byte {raw.index(0):,} is zero. Only text files can be attached."
        )
    return text
