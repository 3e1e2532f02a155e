"""Prompts that were read, kept in a folder from one run to the next.

A file is named by the model it is of and by a hash of what it holds, so that a damaged one is known
before anything of it is used; what else is not as expected is removed as well. Files are written
beside and renamed, by a thread of their own; the folder and its files are for their owner alone.
"""

import copy
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from secrets import token_hex
from threading import Thread
from typing import cast

import mlx.core as mx
import numpy as np

from . import __version__, backend, record, shards
from .branch import shared_length
from .cache import Past
from .errors import MlxarchError

_WORTH = 32  # tokens that are worth a file, or reading one
_NAMES = {
    mx.float32: "F32",
    mx.float16: "F16",
    mx.bfloat16: "BF16",
    mx.uint32: "U32",
    mx.int32: "I32",
}
_PIECE = 1 << 20  # bytes
_ABANDONED = 600  # seconds after which a file is not being written any more


def fingerprint(folder: Path, kv_bits: int | None) -> str:
    """What a kept prompt depends on besides its tokens: weights, how they are used, and by whom."""
    files = [(each.name, each.stat()) for each in shards.find(folder)]
    found = {
        "version": __version__,
        "config": shards.read_config(folder),
        "weights": [(name, stat.st_size, stat.st_mtime_ns) for name, stat in files],
        "kv_bits": kv_bits,
        "device": backend.device(),
    }
    return blake2b(json.dumps(found, sort_keys=True).encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class _File:
    """What a file can be used for."""

    tokens: list[int]
    asked: int
    marks: list[int]


class Kept:
    """The prompts of one model in a folder, which other models and processes may share.

    Args:
        limit: Bytes that all files in the folder may take; those not used for longest go first.
        model: See `fingerprint`.
    """

    def __init__(self, folder: Path, limit: int, model: str):
        self._folder, self._limit, self._model = folder, limit, model
        self._known: dict[Path, _File] = {}
        self._tokens: list[int] = []  # that were saved or loaded last
        self._writer: Thread | None = None

    def load(self, past: Past, prompt: Sequence[int]) -> None:
        """Let `past` know of what was kept, if more of a prompt can be reused then."""
        self._look()
        known = past.reach(prompt)
        ends = {path: self._reach(file, past, prompt[:-1]) for path, file in self._known.items()}
        for path in sorted(ends, key=lambda path: ends[path], reverse=True):
            if ends[path] < known + _WORTH:
                return
            branch = past.empty()
            try:
                record.take(branch, self._read(path))
                os.utime(path)
            except (OSError, ValueError, RuntimeError, MlxarchError):
                self._remove(path)
                continue
            past.take(branch)
            self._tokens = list(branch.tokens)
            return

    def save(self, past: Past) -> bool:
        """Keep what was read last, if it is worth a file; written while the caller goes on."""
        branch = past.now
        new = len(branch.tokens) - shared_length(branch.tokens, self._tokens)
        if self.busy or len(branch.tokens) < _WORTH or new == 0:
            return False
        arrays = record.arrays_of(branch)
        if sum(array.nbytes for array in arrays.values()) > self._limit:
            return False
        mx.eval(arrays)
        # From here on without MLX, whose arrays belong to this thread; these stay what they are.
        tensors = {name: (_NAMES[a.dtype], _numbers(a)) for name, a in arrays.items()}
        file = _File(list(branch.tokens), branch.asked, branch.marks.lengths)
        self._tokens = file.tokens
        self._writer = Thread(
            target=self._write, args=(tensors, file, dict(self._known)), name="prompts"
        )
        self._writer.start()
        return True

    @property
    def busy(self) -> bool:
        """Whether a file is being written."""
        return self._writer is not None and self._writer.is_alive()

    def finish(self) -> None:
        """Wait until what is being written is there."""
        if self._writer is not None:
            self._writer.join()

    def _reach(self, file: _File, past: Past, tokens: Sequence[int]) -> int:
        shared = shared_length(file.tokens, tokens)
        if shared == len(file.tokens) or past.cuttable:
            return shared
        return max((mark for mark in file.marks if mark <= shared), default=0)

    def _look(self) -> None:
        """See which files there are."""
        there = set(self._folder.glob(f"{self._model}-*.safetensors"))
        self._known = {path: file for path, file in self._known.items() if path in there}
        for path in there - self._known.keys():
            try:
                header = shards.read_header(path)
                found = [_whole_numbers(header[name]) for name in ("tokens", "asked", "marks")]
                self._known[path] = _File(found[0], found[1][0], found[2])
            except (OSError, KeyError, IndexError, ValueError, MlxarchError):
                self._remove(path)

    def _read(self, path: Path) -> dict[str, mx.array]:
        """A file's arrays. Raises: FormatError, OSError, ValueError."""
        shards.read_header(path)
        hashed = blake2b(digest_size=16)
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                hashed.update(piece)
        if path.name != self._name(hashed.hexdigest()):
            raise ValueError(f"{path} is damaged")
        arrays = cast(dict[str, mx.array], mx.load(str(path)))
        mx.eval(arrays)
        return arrays

    def _write(
        self, tensors: dict[str, tuple[str, np.ndarray]], file: _File, known: dict[Path, _File]
    ) -> None:
        header, end = {}, 0
        for name, (kind, array) in tensors.items():
            ends = [end, end := end + array.nbytes]
            header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": ends}
        raw = json.dumps(header).encode()
        raw += b" " * (-len(raw) % 8)
        draft = self._folder / f"{token_hex(8)}.part"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._make_room(end + len(raw) + 8, known, file)
            hashed = blake2b(digest_size=16)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            with os.fdopen(os.open(draft, flags, 0o600), "wb") as out:
                for piece in (len(raw).to_bytes(8, "little"), raw, *_pieces(tensors)):
                    hashed.update(piece)
                    out.write(piece)
            draft.rename(self._folder / self._name(hashed.hexdigest()))
        except OSError:
            # A full disk, say: then nothing is kept.
            draft.unlink(missing_ok=True)

    def _make_room(self, size: int, known: dict[Path, _File], file: _File) -> None:
        """Remove what the new file makes needless, and what was not used for longest."""
        for path in self._folder.glob("*.part"):
            if time.time() - path.stat().st_mtime > _ABANDONED:
                path.unlink(missing_ok=True)
        for path, old in known.items():
            if shared_length(old.tokens, file.tokens) >= min(old.asked, len(old.tokens)):
                path.unlink(missing_ok=True)
        files = sorted(self._folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime)
        sizes = [path.stat().st_size for path in files]
        while files and sum(sizes) + size > self._limit:
            files.pop(0).unlink(missing_ok=True)
            del sizes[0]

    def _name(self, digest: str) -> str:
        return f"{self._model}-{digest}.safetensors"

    def _remove(self, path: Path) -> None:
        self._known.pop(path, None)
        path.unlink(missing_ok=True)


def _numbers(array: mx.array) -> np.ndarray:
    """The same memory for numpy, which knows no bfloat16."""
    # A handle of its own: a cache may put another array behind the one it has.
    return np.asarray(array.view(mx.uint16) if array.dtype == mx.bfloat16 else copy.copy(array))


def _pieces(tensors: dict[str, tuple[str, np.ndarray]]) -> Iterator[bytes]:
    """All bytes in order; of rows that are cut off a buffer some at a time."""
    for _, array in tensors.values():
        if array.ndim == 4:
            for index in np.ndindex(array.shape[:2]):
                yield np.ascontiguousarray(array[index]).tobytes()
        else:
            yield np.ascontiguousarray(array).tobytes()


def _whole_numbers(info: shards.TensorInfo) -> list[int]:
    """A short tensor, read by itself."""
    if info.dtype != "I32" or len(info.shape) != 1:
        raise ValueError(f"{info.shard} holds no such numbers")
    with info.shard.open("rb") as file:
        file.seek(info.start)
        return np.frombuffer(file.read(info.bytes), dtype=np.int32).tolist()
