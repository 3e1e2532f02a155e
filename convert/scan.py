"""Every byte of a checkpoint, read once: against the hashes it was written with, and for NaN.

Source: the safetensors format, README of huggingface/safetensors, for the types; OCP Microscaling
Formats 1.0, sections 5.3 and 5.4, for what is no number in eight bits.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlxarch import shards
from mlxarch.errors import FormatError
from mlxarch.files import open_file
from mlxarch.shards import TensorInfo

from . import manifest
from .inventory import travelling
from .manifest import Digest, FileEntry, Manifest

_CHUNK = 8 << 20
# Of each type: the bits that are all set in what is no finite number.
_NO_NUMBER: dict[str, tuple[type[np.unsignedinteger[Any]], int]] = {
    "BF16": (np.uint16, 0x7F80),
    "F16": (np.uint16, 0x7C00),
    "F32": (np.uint32, 0x7F800000),
    "F8_E4M3": (np.uint8, 0x7F),
    "F8_E5M2": (np.uint8, 0x7C),
    "F8_E8M0": (np.uint8, 0xFF),
}
# What the bytes of a packed tensor's scales are, by its mode.
_SCALES = {"mxfp4": "F8_E8M0", "mxfp8": "F8_E8M0", "nvfp4": "F8_E4M3"}


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be."""

    where: str  # a file or a tensor
    what: str  # the rest of the sentence


def scan(
    folder: Path,
    written: Manifest | None,
    modes: Mapping[str, str],
    progress: Callable[[int, int], None],
) -> Iterator[Finding]:
    """Read all files that the manifest knows, or all shards where there is none.

    Args:
        modes: Of scales in eight bits, the mode of what they scale.
        progress: Called with the bytes that are read, and all of them.

    Raises: CheckpointError, FormatError if there is no manifest and no shard.
    """
    if written is not None:
        entries: dict[str, FileEntry | None] = dict(written.files)
        yield from _strangers(folder, written)
    else:
        entries = {shard.name: None for shard in shards.find(folder)}
    sizes = {name: _size(folder / name) for name in entries}
    done, total = 0, sum(sizes.values())

    def advance(count: int) -> None:
        nonlocal done
        progress(done := done + count, total)

    for name, entry in entries.items():
        try:
            yield from _read(folder / name, name, entry, modes, advance)
        except FileNotFoundError:
            yield Finding(name, "is missing; convert again, or copy it again.")
        except FormatError as error:
            yield Finding(name, f"is no file of this checkpoint: {error}")
        except OSError as error:
            yield Finding(name, f"cannot be read: {error.strerror}.")


def _strangers(folder: Path, written: Manifest) -> Iterator[Finding]:
    """Files that a loader would read and that nobody wrote."""
    names = manifest.names(folder)
    read = {name for name in names if name.endswith(".safetensors")} | set(travelling(names))
    for name in sorted(read - written.files.keys()):
        yield Finding(name, f"is not in {manifest.NAME}, and would be read; remove it.")


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _read(
    file: Path,
    name: str,
    entry: FileEntry | None,
    modes: Mapping[str, str],
    advance: Callable[[int], None],
) -> Iterator[Finding]:
    """One file, from its first byte to its last."""
    infos: dict[str, TensorInfo] = {}
    if file.suffix == ".safetensors":
        try:
            infos = shards.read_header(file)
        except FormatError as error:
            yield Finding(name, f"cannot be read: {error}")
    runs = manifest.runs(infos)
    digest = Digest(runs)
    with open_file(file) as stream:
        for run, length in runs:
            bad = 0
            for piece in _pieces(stream, length, advance):
                digest.update(piece)
                if run:
                    bad += _no_numbers(piece, _type(run, infos[run], modes))
            if bad:
                yield Finding(run, f"in {name} has {bad:,} values that are NaN or infinite.")
        for piece in _pieces(stream, None, advance):
            digest.update(piece)
    if entry is not None:
        yield from _compare(name, digest.entry, entry)


def _pieces(stream: Any, length: int | None, advance: Callable[[int], None]) -> Iterator[bytes]:
    """So many bytes, or all that are left, a few at a time."""
    while piece := stream.read(_CHUNK if length is None else min(_CHUNK, length)):
        length = None if length is None else length - len(piece)
        advance(len(piece))
        yield piece


def _type(name: str, info: TensorInfo, modes: Mapping[str, str]) -> str:
    return _SCALES.get(modes.get(name, ""), info.dtype) if info.dtype == "U8" else info.dtype


def _no_numbers(piece: bytes, dtype: str) -> int:
    """How many values of a type are NaN or infinite."""
    if dtype not in _NO_NUMBER:
        return 0
    word, mask = _NO_NUMBER[dtype]
    values = np.frombuffer(piece[: len(piece) // word().itemsize * word().itemsize], word)
    return int(np.count_nonzero((values & word(mask)) == mask))


def _compare(name: str, found: FileEntry, wanted: FileEntry) -> Iterator[Finding]:
    """What is wrong with a file that is not as it was written, and where."""
    if found.bytes != wanted.bytes:
        yield Finding(
            name, f"has {found.bytes:,} bytes; {wanted.bytes:,} were written. Copy it again."
        )
        return
    if found.sha256 == wanted.sha256:
        return
    damaged = [
        run or "its header"
        for run, value in sorted(wanted.tensors.items())
        if found.tensors.get(run) != value
    ]
    if not damaged or len(damaged) == len(wanted.tensors):
        where = "it"
    else:
        more = f" and {len(damaged) - 4} more" if len(damaged) > 4 else ""
        where = ", ".join(damaged[:4]) + more
    yield Finding(
        name, f"is not as it was written: {where} changed since. Copy it again, or convert again."
    )
