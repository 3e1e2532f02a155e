"""mlxarch.json: what a folder was made from and how, and what each of its files should hold.

The same source and options give the same bytes: there is no time and no machine in it. It holds
its own hash as well, taken with zeros in the place of the hash.
"""

import hashlib
import json
import math
import os
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

from mlxarch import __version__, shards
from mlxarch.errors import FormatError
from mlxarch.files import open_file, read_json
from mlxarch.shards import TensorInfo

from .durable import write_text

NAME = "mlxarch.json"

_VERSION = 1
_LIMIT = 100_000_000  # bytes: a hundred times that of a model with a trillion weights
_CHUNK = 8 << 20
_ZEROS = "0" * 64
_HASH, _SUM = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{8}")


def versions() -> dict[str, str]:
    """Of what decides about bytes."""
    return {"mlxarch": __version__, "mlx": metadata.version("mlx")}


@dataclass(frozen=True)
class FileEntry:
    """A file as it was written."""

    bytes: int
    sha256: str  # 64 small hexadecimal digits
    # Of a shard: CRC-32 of each tensor's bytes, and under "" of the header, in 8 digits. The hash
    # finds any damage; these say where it is.
    tensors: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TensorEntry:
    """A quantized tensor; `relative_error` is what quantizing it cost, None if it came so."""

    bits: int
    group_size: int
    mode: str
    relative_error: float | None = None


@dataclass(frozen=True)
class Manifest:
    """Everything that mlxarch.json says."""

    source: Mapping[str, Any]  # name, repo, revision
    options: Mapping[str, Any]  # dtype, recipe, shard_bytes
    files: Mapping[str, FileEntry]  # every other file of the folder, by its path in it
    tensors: Mapping[str, TensorEntry] = field(default_factory=dict)  # quantized, mlx-lm's names
    made_by: Mapping[str, str] = field(default_factory=versions)


def read(folder: Path) -> Manifest | None:
    """The manifest of a folder, or None if it has none.

    Raises: FormatError if it is damaged, or names what does not lie in the folder.
    """
    file = folder / NAME
    if not os.path.lexists(file):
        return None
    raw = read_json(file, _LIMIT)
    with open_file(file) as stream:
        text = stream.read()
    try:
        if raw["version"] != _VERSION:
            raise FormatError(
                f"{file} is of version {raw['version']!r}; this one reads {_VERSION}."
            )
        if _hash(text.replace(raw["sha256"].encode(), _ZEROS.encode(), 1)) != raw["sha256"]:
            raise ValueError("its own hash is another")
        return Manifest(
            source=dict(raw["source"]),
            options=dict(raw["options"]),
            files={_name(name): _file(entry) for name, entry in raw["files"].items()},
            tensors={name: _tensor(entry) for name, entry in raw["tensors"].items()},
            made_by=dict(raw["made_by"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"{file} is damaged: {error!r}; convert again.") from error


def write(
    folder: Path,
    *,
    source: Mapping[str, Any],
    options: Mapping[str, Any],
    tensors: Mapping[str, TensorEntry],
    files: Mapping[str, FileEntry] | None = None,
) -> Manifest:
    """Write the manifest of a folder, whole or not at all.

    Args:
        files: Entries that are known, of shards hashed while they were written; every other file
            of the folder is read, but for those whose names begin with a dot.
    """
    known = files or {}
    found = {name: known[name] if name in known else look(folder / name) for name in names(folder)}
    manifest = Manifest(source=source, options=options, files=found, tensors=tensors)
    _store(folder, manifest)
    return manifest


def renew(folder: Path, changed: Iterable[str]) -> None:
    """Look again at files that were rewritten, added or removed since; nothing without a manifest.

    Raises: FormatError if the manifest is damaged.
    """
    manifest = read(folder)
    if manifest is None:
        return
    files = dict(manifest.files)
    for name in changed:
        files.pop(_name(name), None)
        if (folder / name).is_file():
            files[name] = look(folder / name)
    _store(folder, replace(manifest, files=files))


class Digest:
    """The entry of a file, from its bytes as they come.

    Args:
        runs: Of a shard: the name and bytes of its header, "", and of each tensor, in order.
    """

    def __init__(self, runs: Iterable[tuple[str, int]] = ()):
        self._hash, self._size = hashlib.sha256(), 0
        self._runs, self._sums = iter(runs), dict[str, int]()
        self._name, self._left = "", 0

    def update(self, piece: bytes | memoryview) -> None:
        """Take the bytes that come next."""
        self._hash.update(piece)
        self._size += len(piece)
        view = memoryview(piece)
        while len(view):
            while not self._left:
                self._name, self._left = next(self._runs, ("", -1))
            if self._left < 0:
                return
            own, view = view[: self._left], view[self._left :]
            self._sums[self._name] = zlib.crc32(own, self._sums.get(self._name, 0))
            self._left -= len(own)

    @property
    def entry(self) -> FileEntry:
        """What is known of the file so far."""
        sums = {name: f"{value:08x}" for name, value in sorted(self._sums.items())}
        return FileEntry(self._size, self._hash.hexdigest(), sums)


def look(file: Path) -> FileEntry:
    """The entry of a file as it is now.

    Raises: FormatError if it is no file, or a link that leads out of its folder, or a shard whose
        header is damaged; OSError.
    """
    digest = Digest(runs(shards.read_header(file)) if file.suffix == ".safetensors" else ())
    with open_file(file) as stream:
        while piece := stream.read(_CHUNK):
            digest.update(piece)
    return digest.entry


def runs(header: Mapping[str, TensorInfo]) -> list[tuple[str, int]]:
    """What a shard's bytes are, in order, for `Digest`."""
    tensors = sorted(header.items(), key=lambda item: (item[1].start, item[1].bytes))
    first = [("", info.start) for _, info in tensors[:1]]
    return first + [(name, info.bytes) for name, info in tensors]


def names(folder: Path) -> list[str]:
    """All files that others look at, by their paths, in order; none that begins with a dot."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    found = (path.as_posix() for path in paths if not any(p.startswith(".") for p in path.parts))
    return sorted(name for name in found if name != NAME)


def _store(folder: Path, manifest: Manifest) -> None:
    entries = {
        "version": _VERSION,
        "sha256": _ZEROS,
        "made_by": dict(manifest.made_by),
        "source": dict(manifest.source),
        "options": dict(manifest.options),
        "files": {name: _entry(entry) for name, entry in sorted(manifest.files.items())},
        "tensors": {name: asdict(entry) for name, entry in sorted(manifest.tensors.items())},
    }
    text = json.dumps(entries, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_text(folder / NAME, text.replace(_ZEROS, _hash(text.encode()), 1))


def _hash(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def _entry(entry: FileEntry) -> dict[str, Any]:
    return {key: value for key, value in asdict(entry).items() if value != {}}


def _name(name: str) -> str:
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or name.startswith("/") or not name.isprintable():
        raise ValueError(f"the file {name!r}")
    return name


def _file(entry: Mapping[str, Any]) -> FileEntry:
    size, digest, sums = entry["bytes"], entry["sha256"], entry.get("tensors", {})
    if type(size) is not int or size < 0 or not _HASH.fullmatch(digest):
        raise ValueError(f"{size!r} bytes of hash {digest!r}")
    if not all(_SUM.fullmatch(value) for value in sums.values()):
        raise ValueError("a tensor's checksum")
    return FileEntry(size, digest, sums)


def _tensor(entry: Mapping[str, Any]) -> TensorEntry:
    bits, group, mode = entry["bits"], entry["group_size"], entry["mode"]
    error = entry["relative_error"]
    if type(bits) is not int or type(group) is not int or not isinstance(mode, str):
        raise ValueError(f"a scheme of {bits!r} bits, groups of {group!r}, mode {mode!r}")
    if error is not None and not (type(error) in (int, float) and 0 <= error < math.inf):
        raise ValueError(f"a relative error of {error!r}")
    return TensorEntry(bits, group, mode, error)
