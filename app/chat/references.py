"""Files in a question: `@notes.txt` while it is written, their text when it is sent.

What is sent holds all of it, so that a conversation means the same when a file has changed; what
is shown of it is the question and the names. Of a picture it holds a line, by which its copy is
found.
"""

import os
import re
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path

from mlxarch.errors import FormatError
from mlxarch.files import local

from ..attachment import Image, attached, is_picture
from ..history.tree import clean
from .transcript import plain

_NAMED = re.compile(r'(?<!\S)@(?:"([^"\n]+)"|(\S+))')
_TYPED = re.compile(r'(?<!\S)@("?)([^"\s]*|(?<=")[^"\n]*)$')
_PATH = re.compile(r"/|[^./]\.\w{1,5}$")
_MARKS = ".,;:!?)"  # of a sentence's end
_AT_ONCE = 50  # files that are offered


def expanded(
    text: str, look: Callable[[Path], Image], known: Mapping[str, Image] | None = None
) -> str:
    """A question with the text of each file that it names by `@`; other words with @ stay.

    Args:
        look: Takes note of a picture.
        known: Pictures by their names, for those whose file is gone.

    Raises: FormatError if a file is no text, or a path leads to a folder; or what `look` raises.
    """
    blocks = dict[str, None]()
    for found in _NAMED.finditer(text):
        path, kept = _file(found), (known or {}).get(_name(found))
        if path is not None:
            blocks[look(path).line if is_picture(path) else attached(path)] = None
        elif kept is not None:
            blocks[kept.line] = None
        elif folder := _folder(found):
            raise FormatError(
                f"{folder} is a folder; files come along one by one. Write one of those in it: "
                f"after @{folder}/ they are listed."
            )
    return "\n\n".join([text, *blocks])


def missing(text: str, known: Mapping[str, Image] | None = None) -> list[str]:
    """Paths after an @ where there is no file; a word without a folder or an ending is none."""
    names = [_name(found) for found in _NAMED.finditer(text) if not _file(found)]
    unknown = [name for name in dict.fromkeys(names) if name not in (known or {})]
    return [name for name in unknown if _PATH.search(name)]


def typed(before: str) -> str | None:
    """The beginning of a path that is being typed after an @, at the end of `before`."""
    found = _TYPED.search(before)
    return found[2] if found else None


def offers(beginning: str) -> list[str]:
    """Files and folders whose paths begin so; a folder ends with a slash."""
    folder, _, start = beginning.rpartition("/")
    base = local(f"{folder}/" if folder or beginning.startswith("/") else ".")
    try:
        with os.scandir(base) as entries:
            found = [
                (not name.endswith("/"), name.lower(), name)
                for entry in entries
                if entry.name.lower().startswith(start.lower())
                and (start.startswith(".") or not entry.name.startswith("."))
                and (name := _listed(entry))
            ]
    except OSError:
        return []
    before = beginning[: len(beginning) - len(start)]
    paths = (before + name for *_, name in sorted(found))
    return list(islice(filter(_writable, paths), _AT_ONCE))


def written(path: str) -> str:
    """A path as it stands in a question; that of a folder is open for what is in it."""
    if not re.search(r"\s", path):
        return f"@{path}"
    return f'@"{path}' if path.endswith("/") else f'@"{path}"'


def _listed(entry: os.DirEntry[str]) -> str:
    """A file, or a folder with its slash; nothing for a pipe, a device or a link to nowhere."""
    try:
        return f"{entry.name}/" if entry.is_dir() else entry.name if entry.is_file() else ""
    except OSError:  # a link to itself
        return ""


def _writable(path: str) -> bool:
    """A question can hold a path: it has no escape sequences, lines or bytes that are no UTF-8."""
    quoted = '"' in path and re.search(r"\s", path)  # would end at its own mark
    return path == clean(plain(path)).replace("\n", "") and not quoted


def _name(found: re.Match[str]) -> str:
    """The name that a word gives, without the mark of a sentence's end."""
    return (found[1] or found[2]).rstrip(_MARKS)


def _folder(found: re.Match[str]) -> str:
    """The folder that a path leads to; a word without a slash is none."""
    name = _name(found)
    try:
        return name.rstrip("/") if "/" in name and local(name).is_dir() else ""
    except OSError:  # no name that a folder could have
        return ""


def _file(found: re.Match[str]) -> Path | None:
    """The file that a word names, with or without the mark of a sentence's end."""
    for name in (found[1] or found[2], (found[1] or found[2]).rstrip(_MARKS)):
        path = local(name)
        try:
            if path.is_file():
                return path
        except OSError:  # no name that a file could have
            continue
    return None
