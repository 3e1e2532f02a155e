"""Files that a question brings along."""

import re
from pathlib import Path

from mlxarch.errors import FormatError

_SHOWN = 8  # bytes of what is no text


def attached(file: Path) -> str:
    """A text file as a model reads it: its name, and its text between fences.

    Raises: FormatError if it cannot be read, or is no text.
    """
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise FormatError(f"{file} cannot be read: {error.strerror or error}.") from error
    text = _decoded(file, raw).rstrip("\n")
    # Longer than any fence inside.
    fence = max(("`" + run for run in re.findall("`+", text)), key=len, default="").ljust(3, "`")
    return f"File {file}:\n{fence}\n{text}\n{fence}"


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
