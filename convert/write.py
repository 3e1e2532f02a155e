"""A plan carried out: one tensor in memory at a time, one file after another, and no decision."""

import json
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial as bound
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import mlx.core as mx

from mlxarch.errors import CheckpointError
from mlxarch.quantize.pack import Packed, pack
from mlxarch.quantize.scheme import Scheme
from mlxarch.shards import INDEX

from . import download, inventory, manifest, room
from .durable import sync, write_text
from .journal import Journal, Record
from .manifest import Digest, TensorEntry
from .partial import STATE, check_target, finish, partial, place
from .plan import Output, Plan, Shard
from .reader import Reader
from .safetensors import MLX, data
from .supply import Supply

# Bytes computed and written at once: no single command may keep a GPU busy for seconds.
_PIECE = 16 << 20


class Method(Protocol):
    """A way to quantize that is more than rounding: see `mlxarch.quantize`."""

    @property
    def word(self) -> str:
        """What makes two runs of it the same."""
        ...

    def start(
        self, state: Path, progress: Callable[[int, int], None]
    ) -> Callable[[str, Scheme], Packed | None]:
        """What packs a tensor by its name, asked in the plan's order; None if it is to be rounded.

        Args:
            state: A folder, which may not be there yet, for what a later run goes on from.
            progress: Called with the layers that have read the text, and all of them.
        """
        ...


@dataclass(frozen=True)
class Progress:
    """So many bytes of shards are written, of so many."""

    done: int
    total: int


@dataclass(frozen=True)
class Fetching:
    """A shard of the source is waited for; so many of its bytes are here."""

    file: str
    done: int
    total: int


@dataclass(frozen=True)
class Reading:
    """A method lets the model read a text; so many layers have, of so many."""

    done: int
    total: int


@dataclass(frozen=True)
class TensorWritten:
    """One tensor is written; `relative_error` is what quantizing it cost, None if it was not."""

    output: Output
    relative_error: float | None


@dataclass(frozen=True)
class ShardWritten:
    """One file is whole and on the disk; an earlier run may have written it."""

    shard: Shard
    earlier: bool = False


@dataclass(frozen=True)
class SourceDeleted:
    """A shard of the source is gone, since all that is made of it is there."""

    file: Path


Event = Progress | Fetching | Reading | TensorWritten | ShardWritten | SourceDeleted


def is_whole(plan: Plan, out: Path, method: Method | None = None) -> bool:
    """Whether `out` is what this very plan made, from a source that has not changed since."""
    finish(out)
    made = manifest.read(out)
    if made is None or made.options.get("plan") != _job(plan, method)[0]:
        return False
    return plan.source.changed <= (out / manifest.NAME).stat().st_mtime_ns


def finished(plan: Plan, out: Path, method: Method | None = None) -> list[str]:
    """The files that an earlier run of the same job has left for this one."""
    folder = place(out)
    found = Journal(folder, _job(plan, method)[1])
    return [] if found.theirs is not None else list(found.done)


def check(plan: Plan, out: Path, method: Method | None = None, *, delete: bool = False) -> None:
    """Refuse a place where the plan cannot be carried out.

    Raises: MlxarchError if `out` exists or lies in the source; DoesNotFit.
    """
    check_target(out, plan.source.folder)
    room.check(plan, out, finished(plan, out, method), delete=delete)


def write(
    plan: Plan,
    out: Path,
    watch: Callable[[Event], None] = lambda event: None,
    method: Method | None = None,
    *,
    delete: bool = False,
) -> None:
    """Carry out a plan, or go on with it; `out` is there when it is whole, and only then.

    Args:
        method: How tensors are quantized; without one they are rounded.
        delete: Remove a shard of the source as soon as all that is made of it is on the disk and
            read back as it was written.

    Raises: MlxarchError if `out` exists or lies in the source; DoesNotFit; CheckpointError if the
        source is no longer what was planned; HubError.
    """
    check(plan, out, method, delete=delete)
    fingerprint, job = _job(plan, method)
    with partial(out, job) as journal:
        supply = Supply(plan, journal.done, lambda *fetched: watch(Fetching(*fetched)))
        reader = Reader(plan.source.tensors, supply.find)
        state, progress = journal.folder / STATE, lambda *layers: watch(Reading(*layers))
        packer = method.start(state, progress) if method else None
        writer = _Writer(journal, reader, packer, watch, plan.bytes_out)
        for index, shard in enumerate(plan.shards):
            writer.put_shard(shard)
            if delete:
                _check_written(journal.folder, journal.done[shard.file])
                inventory.save(plan.source, journal.folder / STATE)
                for file in supply.release(index):
                    reader.forget(file)
                    watch(SourceDeleted(file))
        _finish(plan, journal, fingerprint)


def _job(plan: Plan, method: Method | None) -> tuple[str, str]:
    """What makes an output the same, and what makes a run the same job."""
    word = f" {method.word}" if method else ""
    return plan.fingerprint + word, plan.job + word


class _Writer:
    """Writes one file of tensors after another."""

    def __init__(
        self,
        journal: Journal,
        reader: Reader,
        packer: Callable[[str, Scheme], Packed | None] | None,
        watch: Callable[[Event], None],
        total: int,
    ):
        self._journal, self._read, self._packer = journal, reader, packer
        self._watch, self._done, self._total = watch, 0, total

    def put_shard(self, shard: Shard) -> None:
        """Write a file, unless an earlier run did."""
        if shard.file in self._journal.done:
            self._done += shard.bytes
            self._watch(Progress(self._done, self._total))
            for output in shard.outputs:
                errors = self._journal.done[shard.file].errors
                self._watch(TensorWritten(output, errors.get(output.name)))
            self._watch(ShardWritten(shard, earlier=True))
            return
        digest, errors = Digest(shard.runs), {}
        path = self._journal.folder / shard.file
        with path.open("wb") as file:
            put = bound(self._put, file, digest)
            put(shard.header)
            for output in shard.outputs:
                error = self._put_tensor(put, output)
                if output.scheme is not None:
                    errors[output.name] = error
                self._watch(TensorWritten(output, error))
                mx.clear_cache()
        sync(path)
        self._journal.add(shard.file, digest.entry, errors)
        self._watch(ShardWritten(shard))

    def _put(self, file: BinaryIO, digest: Any, content: bytes | memoryview) -> None:
        for start in range(0, len(content), _PIECE):
            piece = content[start : start + _PIECE]
            digest.update(piece)
            self._done += file.write(piece)
            self._watch(Progress(self._done, self._total))

    def _put_tensor(
        self, put: Callable[[bytes | memoryview], None], output: Output
    ) -> float | None:
        """Write what makes up a tensor in the output; the error that packing it made."""
        if output.scheme is None:
            for piece in self._pieces(output):
                put(data(piece))
            return None
        packed = self._packer(output.name, output.scheme) if self._packer else None
        rounded = (pack(piece, output.scheme) for piece in self._pieces(output))
        scales, biases, lost, norm = [], [], 0.0, 0.0
        for piece in rounded if packed is None else [packed]:
            for array in piece.weight:
                put(data(array))
            scales += piece.scales
            biases += piece.biases
            lost, norm = lost + piece.lost, norm + piece.norm
        for array in scales + biases:
            put(data(array))
        return math.sqrt(lost / norm) if norm else 0.0

    def _pieces(self, output: Output) -> Iterator[mx.array]:
        """A tensor's rows in the type that they are cast to, some at a time."""
        for piece in output.tensor.pieces(self._read):
            # Reading a slow disk and computing are two commands: a GPU is not kept waiting in one.
            mx.eval(piece)
            rows = piece.reshape(-1, piece.shape[-1]) if piece.ndim > 1 else piece.reshape(1, -1)
            count = max(1, _PIECE // max(1, rows.shape[1] * rows.itemsize))
            for start in range(0, rows.shape[0], count):
                yield rows[start : start + count].astype(MLX[output.dtype])
            del piece, rows


def _check_written(folder: Path, record: Record) -> None:
    """Raises: CheckpointError if a file does not read as it was written."""
    if manifest.look(folder / record.file) != record.entry:
        raise CheckpointError(
            f"{folder / record.file} does not read as it was written; the disk may be failing. "
            "Nothing of the source that it was made of is deleted."
        )


def _finish(plan: Plan, journal: Journal, fingerprint: str) -> None:
    """Everything in the folder that is no tensor."""
    folder, source = journal.folder, plan.source
    for name in source.travellers:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(_traveller(plan, name), folder / name)
        sync(folder / name)
    write_text(folder / INDEX, json.dumps(plan.index, indent=4))
    write_text(folder / "config.json", json.dumps(plan.config, indent=4, ensure_ascii=False))
    write_text(folder / "README.md", plan.readme)
    errors = {name: e for record in journal.done.values() for name, e in record.errors.items()}
    manifest.write(
        folder,
        source={"name": source.name, "repo": source.repo, "revision": source.revision},
        options={**plan.options, "plan": fingerprint},
        tensors={
            output.name: TensorEntry(**output.scheme.entry, relative_error=errors[output.name])
            for output in plan.outputs
            if output.scheme is not None
        },
        files={record.file: record.entry for record in journal.done.values()},
    )


def _traveller(plan: Plan, name: str) -> Path:
    source = plan.source
    if source.folder is not None:
        return source.folder / name
    return download.fetch_file(str(source.repo), name, str(source.revision))
