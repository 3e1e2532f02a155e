"""A plan carried out: one tensor in memory at a time, one file after another, and no decision."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import mlx.core as mx

from mlxarch import checkpoint
from mlxarch.errors import CheckpointError
from mlxarch.quantize.pack import pack
from mlxarch.shards import INDEX

from .partial import check_room, check_target, partial, sync
from .plan import Output, Plan, Shard
from .safetensors import MLX, data

# Room for a folder's own blocks and whatever else grows meanwhile.
_SPARE = 50_000_000
_CHUNK = 16 << 20


@dataclass(frozen=True)
class Progress:
    """So many bytes of shards are written, of so many."""

    done: int
    total: int


@dataclass(frozen=True)
class TensorWritten:
    """One tensor is written; `relative_error` is what quantizing it cost, None if it was not."""

    output: Output
    relative_error: float | None


@dataclass(frozen=True)
class ShardWritten:
    """One file is whole and on the disk."""

    shard: Shard


Event = Progress | TensorWritten | ShardWritten


def check(plan: Plan, out: Path) -> None:
    """Refuse a place where the plan cannot be carried out.

    Raises: MlxarchError if `out` exists or lies in the source; DoesNotFit.
    """
    check_target(out, plan.source.folder)
    check_room(out, plan.bytes_out + sum(plan.source.travellers.values()) + _SPARE)


def write(plan: Plan, out: Path, watch: Callable[[Event], None] = lambda event: None) -> None:
    """Carry out a plan; `out` is there when it is whole, and only then.

    Raises: MlxarchError if `out` exists or lies in the source; DoesNotFit; CheckpointError if the
        source is no longer what was planned.
    """
    check(plan, out)
    source = plan.source.folder
    assert source is not None, "only headers were fetched"
    total, done = plan.bytes_out, 0

    def put(file: BinaryIO, content: bytes | memoryview) -> None:
        nonlocal done
        for start in range(0, len(content), _CHUNK):
            done += file.write(content[start : start + _CHUNK])
            watch(Progress(done, total))

    def put_tensor(file: BinaryIO, output: Output, weight: mx.array | None) -> None:
        arrays, error = _convert(output, weight)
        for array in arrays:
            put(file, data(array))
        watch(TensorWritten(output, error))

    with partial(out) as folder:
        raw, weights = plan.source.raw, checkpoint.read(source)
        if plan.config.get("dtype") == "float32":
            # What rules compute, such as a norm's weight plus one, is then as exact as asked.
            weights = checkpoint.as_type(raw, weights, mx.float32)
        weights = checkpoint.as_mlx(raw, weights)
        for shard in plan.shards:
            with (folder / shard.file).open("wb") as file:
                put(file, shard.header)
                for output in shard.outputs:
                    put_tensor(file, output, weights.pop(output.name, None))
                    mx.clear_cache()
            sync(folder / shard.file)
            watch(ShardWritten(shard))
        for name in plan.source.travellers:
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source / name, folder / name)
            sync(folder / name)
        _write_text(folder / INDEX, json.dumps(plan.index, indent=4))
        _write_text(folder / "config.json", json.dumps(plan.config, indent=4, ensure_ascii=False))
        _write_text(folder / "README.md", plan.readme)


def _convert(output: Output, weight: mx.array | None) -> tuple[list[mx.array], float | None]:
    """The arrays that make up a tensor in the output, and the error that packing it made."""
    types = (MLX[output.stored], MLX[output.dtype])
    if weight is None or weight.shape != output.shape or weight.dtype not in types:
        raise CheckpointError(f"{output.name} changed while it was converted; start again.")
    # Reading a slow disk and computing are two commands: a GPU is not kept waiting in one.
    mx.eval(weight)
    weight = weight.astype(MLX[output.dtype])
    if output.scheme is None:
        return [weight], None
    packed = pack(weight, output.scheme)
    return [*packed.weight, *packed.scales, *packed.biases], packed.relative_error


def _write_text(file: Path, text: str) -> None:
    file.write_text(f"{text.rstrip()}\n", encoding="utf-8")
    sync(file)
