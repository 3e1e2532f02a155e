"""`mlxarch convert`: a hub checkpoint becomes one in the MLX community's format."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlxarch.quantize.scheme import BITS, GROUP_SIZES, Scheme

from ..progress import bar, emit
from ..words import size

if TYPE_CHECKING:
    from mlxarch.convert.plan import Plan
    from mlxarch.convert.write import TensorWritten


@click.command(short_help="Turn a hub checkpoint into an MLX checkpoint.")
@click.argument("src")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--dtype",
    type=click.Choice(["bfloat16", "float16", "float32"]),
    help="Cast all floating tensors; without it each keeps the type it has.",
)
@click.option(
    "--bits",
    type=click.Choice([str(bits) for bits in BITS]),
    help="Quantize linear layers and embeddings on the way.",
)
@click.option(
    "--group-size",
    type=click.Choice([str(size) for size in GROUP_SIZES]),
    help="Weights that share a scale, with --bits; 64 without it.",
)
@click.option("--revision", metavar="REV", help="Branch, tag or commit of a repository.")
@click.option("--offline", is_flag=True, help="Use only what has been downloaded before.")
@click.option(
    "--dry-run", is_flag=True, help="Show the plan, read from headers alone; write nothing."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line on stdout.")
def command(
    src: str,
    out: Path,
    dtype: str | None,
    bits: str | None,
    group_size: str | None,
    revision: str | None,
    offline: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Convert the checkpoint SRC to the MLX community's format in the new folder OUT.

    SRC is a repository on the hub or a local folder with config.json and safetensors. It is never
    changed. OUT is written beside its place and renamed when it is whole; mlxarch and mlx-lm load
    it. Its path is printed on stdout.

    \b
    Examples:
      mlxarch convert Nanbeige/Nanbeige4.1-3B nanbeige
      mlxarch convert Nanbeige/Nanbeige4.1-3B nanbeige-4bit --bits 4
      mlxarch convert Nanbeige/Nanbeige4.1-3B anywhere --bits 4 --dry-run
      mlxarch convert ./checkpoint ./out --dtype float16 --json
    """
    from mlxarch.convert import hub, inventory, partial

    if group_size and not bits:
        raise click.UsageError("--group-size is for --bits; give both.")
    if revision and hub.is_folder(src):
        raise click.UsageError(f"--revision is for repositories; {src} is a folder.")
    scheme = Scheme(int(bits), int(group_size or 64)) if bits else None
    partial.check_target(out)
    afar = not (hub.is_folder(src) or offline or hub.is_offline())
    if afar:
        source = inventory.look_afar(src, revision=revision)
    else:
        source = inventory.find(src, revision=revision, offline=offline)

    # These import mlx-lm, which takes seconds: what is not there is said before.
    from mlxarch.convert import plan, write

    planned = plan.make(source, dtype=dtype, scheme=scheme)
    if dry_run:
        show(planned, out, as_json)
        return
    if afar:
        # Whatever speaks against it is known by now, before the weights are downloaded.
        write.check(planned, out)
        source = inventory.find(src, revision=revision)
        planned = plan.make(source, dtype=dtype, scheme=scheme)
    carry_out(planned, out, as_json)
    if not as_json:
        click.echo(out)


def show(plan: Plan, out: Path, as_json: bool) -> None:
    """A plan on stdout, for a dry run.

    Raises: MlxarchError, DoesNotFit if it cannot be carried out there.
    """
    from mlxarch.convert import partial, write

    if as_json:
        _emit_plan(plan, out)
    else:
        rows = {
            "source": f"{plan.source.name} ({plan.architecture})",
            "tensors": f"{len(plan.outputs)}, {plan.parameters:,} parameters",
            "bytes in": size(plan.bytes_in),
            "bytes out": f"{size(plan.bytes_out)} in {_count(len(plan.shards), 'shard')}",
            "bits per weight": f"{plan.bits_per_weight:.2f}",
            "peak memory": size(plan.peak_bytes),
            "disk free": size(partial.free_bytes(out)),
        }
        for label, value in rows.items():
            click.echo(f"{label:<17}{value}")
        if plan.scheme:
            click.echo(f"{'quantized':<17}{_quantized(plan)} of {len(plan.outputs)}, {plan.scheme}")
        for output in plan.unquantized:
            click.echo(f"{'unquantized':<17}{output.name}, rows of {output.shape[-1]}")
    write.check(plan, out)


def carry_out(plan: Plan, out: Path, as_json: bool) -> list[TensorWritten]:
    """Write a plan and show how it goes; what was written is returned."""
    from mlxarch.convert import write

    started, tensors = time.monotonic(), []
    if as_json:
        _emit_plan(plan, out)
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

    with bar("Writing") as advance:

        def watch(event: write.Event) -> None:
            if isinstance(event, write.Progress):
                advance(event.done, event.total)
            elif isinstance(event, write.TensorWritten):
                tensors.append(event)
                if as_json:
                    _emit_tensor(event)
            elif as_json:
                emit("shard", file=event.shard.file, bytes=event.shard.bytes)

        write.write(plan, out, watch)

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


def _emit_plan(plan: Plan, out: Path) -> None:
    from mlxarch.convert import partial

    emit(
        "plan",
        source=plan.source.name,
        architecture=plan.architecture,
        out=str(out),
        tensors=len(plan.outputs),
        quantized=_quantized(plan),
        unquantized=[output.name for output in plan.unquantized],
        parameters=plan.parameters,
        shards=len(plan.shards),
        bytes_in=plan.bytes_in,
        bytes_out=plan.bytes_out,
        bits_per_weight=plan.bits_per_weight,
        peak_bytes=plan.peak_bytes,
        free_bytes=partial.free_bytes(out),
    )


def _emit_tensor(event: TensorWritten) -> None:
    output = event.output
    emit(
        "tensor",
        name=output.name,
        bits=output.scheme.bits if output.scheme else None,
        bytes_in=output.bytes_in,
        bytes_out=output.bytes,
        relative_error=event.relative_error,
    )


def _quantized(plan: Plan) -> int:
    return sum(output.scheme is not None for output in plan.outputs)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
