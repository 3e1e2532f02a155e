"""A plan for people and programs: shown before, while and after it is carried out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlxarch.words import size

from .progress import bar, emit

if TYPE_CHECKING:
    from mlxarch.convert.plan import Plan
    from mlxarch.convert.write import Method, TensorWritten


def show(
    plan: Plan, out: Path, as_json: bool, method: Method | None = None, *, delete: bool = False
) -> None:
    """A plan on stdout, for a dry run.

    Raises: MlxarchError, DoesNotFit if it cannot be carried out there.
    """
    from mlxarch.convert import durable, write

    if as_json:
        _emit_plan(plan, out, method, delete)
    else:
        rows = {
            "source": f"{plan.source.name} ({plan.architecture})",
            "tensors": f"{len(plan.outputs)}, {plan.parameters:,} parameters",
            "bytes in": size(plan.bytes_in),
            "bytes out": f"{size(plan.bytes_out)} in {_count(len(plan.shards), 'shard')}",
            "bits per weight": f"{plan.bits_per_weight:.2f}",
            "peak memory": size(plan.peak_bytes) + (", and a layer in float32" if method else ""),
            "disk at worst": _disk(plan, out, method, delete),
            "disk free": size(durable.free_bytes(out)),
        }
        if done := write.finished(plan, out, method):
            rows["done before"] = f"{len(done)} of {_count(len(plan.shards), 'shard')}"
        for label, value in rows.items():
            click.echo(f"{label:<17}{value}")
        if plan.schemes:
            click.echo(
                f"{'quantized':<17}{_quantized(plan)} of {len(plan.outputs)}, {plan.schemes.recipe}"
            )
            click.echo(f"{'kind':<17}{'gets':<10}{'tensors':>7}{'bytes':>10}")
            for row in _kinds(plan):
                what = f"{row['kind']:<17}{row['gets']:<10}{row['tensors']:>7}"
                click.echo(f"{what}{size(row['bytes']):>10}")
        for output in plan.unquantized:
            click.echo(f"{'unquantized':<17}{output.name}, rows of {output.shape[-1]}")
    if not write.is_whole(plan, out, method):
        write.check(plan, out, method, delete=delete)


def carry_out(
    plan: Plan, out: Path, as_json: bool, method: Method | None = None, *, delete: bool = False
) -> list[TensorWritten]:
    """Write a plan, or go on with it, and show how it goes; what was written is returned."""
    from mlxarch.convert import manifest, partial, write

    if write.is_whole(plan, out, method):
        click.echo(f"{out} is whole already: this very conversion made it.", err=True)
        made = manifest.read(out)
        known = made.tensors if made else {}
        errors = {name: entry.relative_error for name, entry in known.items()}
        return [write.TensorWritten(output, errors.get(output.name)) for output in plan.outputs]
    started, tensors = time.monotonic(), []
    if as_json:
        _emit_plan(plan, out, method, delete)
    else:
        click.echo(
            f"{plan.source.name} ({plan.architecture}): {len(plan.outputs)} tensors, "
            f"{size(plan.bytes_in)} to {size(plan.bytes_out)}, "
            f"{plan.bits_per_weight:.2f} bits per weight, peak memory {size(plan.peak_bytes)}.",
            err=True,
        )
        if plan.unquantized:
            names = ", ".join(output.name for output in plan.unquantized)
            click.echo(
                f"{_count(len(plan.unquantized), 'tensor')} stay unquantized, since their rows "
                f"are no multiple of the group size: {names}.",
                err=True,
            )

    written = write.Progress(0, plan.bytes_out)

    def watch(event: write.Event) -> None:
        nonlocal written
        if isinstance(event, write.Progress):
            written = event
            advance(event.done, event.total)
        elif isinstance(event, write.Reading):
            now = f"Reading the text, layer {event.done} of {event.total}"
            advance(written.done, written.total, now)
        elif isinstance(event, write.Fetching):
            advance(event.done, event.total, f"Fetching {event.file}")
        elif isinstance(event, write.TensorWritten):
            tensors.append(event)
            if as_json:
                _emit_tensor(event)
        elif as_json and isinstance(event, write.ShardWritten):
            emit("shard", file=event.shard.file, bytes=event.shard.bytes, earlier=event.earlier)
        elif as_json:
            emit("deleted", file=str(event.file))

    if before := write.finished(plan, out, method):
        shards = _count(len(plan.shards), "shard")
        click.echo(f"Going on: {len(before)} of {shards} were written before.", err=True)
    try:
        with bar("Writing") as advance:
            write.write(plan, out, watch, method, delete=delete)
    except BaseException:
        if left := write.finished(plan, out, method):
            click.echo(
                f"{partial.place(out)} keeps {len(left)} of {_count(len(plan.shards), 'shard')}; "
                "the same command goes on from there.",
                err=True,
            )
        raise

    seconds = time.monotonic() - started
    if as_json:
        emit(
            "done",
            out=str(out),
            bytes=plan.bytes_out,
            bits_per_weight=plan.bits_per_weight,
            seconds=seconds,
        )
    else:
        shards = _count(len(plan.shards), "shard")
        click.echo(f"Wrote {size(plan.bytes_out)} in {shards}, {seconds:.1f} s.", err=True)
    return tensors


def _disk(plan: Plan, out: Path, method: Method | None, delete: bool) -> str:
    """The disk that is taken at the worst moment, and by what."""
    from mlxarch.convert import room, write

    disk = room.disk(plan, write.finished(plan, out, method), delete=delete)
    fetched = f" and {size(disk.cache)} in the hub's cache" if disk.cache else ""
    return f"{size(disk.out)}{fetched}"


def _emit_plan(plan: Plan, out: Path, method: Method | None, delete: bool) -> None:
    from mlxarch.convert import durable, room, write

    disk = room.disk(plan, write.finished(plan, out, method), delete=delete)
    emit(
        "plan",
        source=plan.source.name,
        architecture=plan.architecture,
        out=str(out),
        tensors=len(plan.outputs),
        recipe=str(plan.schemes.recipe) if plan.schemes else None,
        quantized=_quantized(plan),
        kinds=_kinds(plan),
        unquantized=[output.name for output in plan.unquantized],
        parameters=plan.parameters,
        shards=len(plan.shards),
        bytes_in=plan.bytes_in,
        bytes_out=plan.bytes_out,
        bits_per_weight=plan.bits_per_weight,
        peak_bytes=plan.peak_bytes,
        disk_bytes=disk.both,
        free_bytes=durable.free_bytes(out),
    )


def _emit_tensor(event: TensorWritten) -> None:
    output = event.output
    emit(
        "tensor",
        name=output.name,
        bits=output.scheme.bits if output.scheme else None,
        scheme=output.scheme.word if output.scheme else None,
        bytes_in=output.bytes_in,
        bytes_out=output.bytes,
        relative_error=event.relative_error,
    )


def _kinds(plan: Plan) -> list[dict[str, Any]]:
    """What each kind of tensor gets, "4g32" or "BF16"; how many those are, and their bytes."""
    if plan.schemes is None:
        return []
    found: dict[tuple[str, str], tuple[int, int]] = {}
    for output in plan.outputs:
        gets = output.scheme.word if output.scheme else output.dtype
        key = (plan.schemes.kind(output.name, output.shape), gets)
        tensors, total = found.get(key, (0, 0))
        found[key] = (tensors + 1, total + output.bytes)
    return [
        {"kind": kind, "gets": gets, "tensors": tensors, "bytes": total}
        for (kind, gets), (tensors, total) in sorted(found.items())
    ]


def _quantized(plan: Plan) -> int:
    return sum(output.scheme is not None for output in plan.outputs)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
