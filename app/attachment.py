"""Files that a question brings along, and the question they are part of."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

from mlxarch.errors import FormatError
from mlxarch.words import size

MOST = 16_000_000  # bytes; what the longest context holds is a fraction of it
_SHOWN = 8  # bytes of what is no text
_PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".heic", ".tiff")


@dataclass(frozen=True)
class Image:
    """A picture that a question brings along, as the question tells of it."""

    name: str
    width: int  # pixels
    height: int
    tokens: int  # of the model that was asked
    sha256: str

    PATTERN = (
        r"Picture (?P<name>[^\n]+) \((?P<width>\d+) x (?P<height>\d+) pixels, "
        r"(?P<tokens>\d+) tokens, SHA-256 (?P<sha256>[0-9a-f]{64})\)"
    )

    @classmethod
    def of(cls, found: re.Match[str]) -> "Image":
        """That of a line that `PATTERN` matches."""
        width, height, tokens = (int(found[each]) for each in ("width", "height", "tokens"))
        return cls(found["name"], width, height, tokens, found["sha256"])

    def __str__(self) -> str:
        return f"Picture {self.name} ({self.width} x {self.height} pixels)"

    @property
    def line(self) -> str:
        """What a question has of it."""
        return f"{str(self)[:-1]}, {self.tokens} tokens, SHA-256 {self.sha256})"


@dataclass(frozen=True)
class File:
    """A file that a question brought along."""

    name: str
    characters: int


_BLOCK = re.compile(
    rf"\n\n(?:File ([^\n]+):\n(`{{3,}})\n(.*?)\n\2|{Image.PATTERN})(?=\n\n(?:File|Picture) |\Z)",
    re.DOTALL,
)


def is_picture(file: Path) -> bool:
    """Whether a file is a picture, by its name."""
    return file.suffix.lower() in _PICTURES


def check_picture(file: Path) -> None:
    """Raise FormatError if a file is no picture that can be read."""
    from mlxarch.vision import pixels

    pixels.measure(pixels.read(file), file)


def looked_at(file: Path, scale: Mapping[str, Any]) -> tuple[Image, bytes]:
    """A picture's file, and what is said of it.

    Args:
        scale: How large the model sees it, see `Ready`.

    Raises: FormatError if it is none that can be read.
    """
    from mlxarch.vision import pixels

    raw = pixels.read(file)
    width, height = pixels.measure(raw, file)
    rows, columns = pixels.Scale(**scale).tokens(width, height, file)
    return Image(str(file), width, height, rows * columns, sha256(raw).hexdigest()), raw


def attached(file: Path) -> str:
    """A text file as a model reads it: its name, and its text between fences.

    Raises: FormatError if it cannot be read, or is no text.
    """
    try:
        with file.open("rb") as opened:
            raw = read(opened, str(file))
    except OSError as error:
        raise FormatError(f"{file} cannot be read: {error.strerror or error}.") from error
    text = _decoded(file, raw).rstrip("\n")
    # Longer than any fence inside.
    fence = max(("`" + run for run in re.findall("`+", text)), key=len, default="").ljust(3, "`")
    name = str(file).encode(errors="replace").decode()
    return f"File {name}:\n{fence}\n{text}\n{fence}"


def folded(content: str) -> tuple[str, list[File | Image]]:
    """What was asked, and the files that came along."""
    asked, blocks = _parted(content)
    return asked, [
        File(found[1], len(found[3])) if found[1] else Image.of(found) for found in blocks
    ]


def pictures(content: str) -> list[Image]:
    """The pictures that came along with a question."""
    if "SHA-256" not in content:
        return []  # soon known of a long text
    return [file for file in folded(content)[1] if isinstance(file, Image)]


def told(content: str) -> str:
    """A question and its files as people read them elsewhere: without the hashes of pictures."""
    asked, blocks = _parted(content)
    return asked + "".join(found[0] if found[1] else f"\n\n{Image.of(found)}" for found in blocks)


def without_pictures(content: str, shown: Collection[Image]) -> str:
    """A question with the text of its files, and no word of the pictures that are shown."""
    asked, blocks = _parted(content)
    kept = (found[0] for found in blocks if found[1] or Image.of(found) not in shown)
    return asked + "".join(kept)


def _parted(content: str) -> tuple[str, list[re.Match[str]]]:
    """What was asked, and the blocks that end it."""
    blocks, end = list(_BLOCK.finditer(content)), len(content)
    while blocks and blocks[-1].end() == end:
        end = blocks.pop().start()
    return content[:end], list(_BLOCK.finditer(content, end))


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
