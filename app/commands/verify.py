"""`mlxarch verify`: whether a checkpoint is whole, undamaged, and what its source makes it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from ..progress import bar, emit

if TYPE_CHECKING:
    from mlxarch.convert.against import Compared
    from mlxarch.convert.scan import Finding
    from mlxarch.convert.verify import Progress, Report

_WORST = 8


@click.command(short_help="Prove that a checkpoint is whole, undamaged and true to its source.")
@click.argument("out")
@click.argument("src", required=False)
@click.option(
    "--threshold",
    type=click.FloatRange(min=0),
    help="The largest relative error of a quantized tensor; without it, what was recorded when it "
    "was made, or three times that of rounding to nearest.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line on stdout.")
def command(out: str, src: str | None, threshold: float | None, as_json: bool) -> None:
    """Verify the checkpoint OUT, and hold it against the checkpoint SRC that it was made from.

    OUT and SRC are local folders, or repositories in the hub's cache; nothing is fetched. Every
    byte is read once and held against the hashes in mlxarch.json, where there is one; tensors must
    be those that config.json asks for, and hold no NaN. With SRC, each tensor is compared with its
    source's, and then both models read a short prompt, one layer in memory at a time.

    What is wrong is listed on stdout, and the exit code is 5.

    \b
    Examples:
      mlxarch verify ./nanbeige-4bit
      mlxarch verify ./nanbeige-4bit Nanbeige/Nanbeige4.1-3B
      mlxarch verify ./nanbeige-4bit ./nanbeige --threshold 0.12 --json
    """
    from mlxarch.convert import download

    if threshold is not None and src is None:
        raise click.UsageError("--threshold is for a comparison; give SRC as well.")
    folder = download.resolve(out, offline=True)
    source = download.resolve(src, offline=True) if src else None

    # This imports mlx-lm, which takes seconds: what is not there is said before.
    from mlxarch.convert import verify

    with bar("Verifying") as advance:

        def watch(event: Progress | Finding | Compared) -> None:
            if isinstance(event, verify.Progress):
                advance(event.done, event.total, event.stage)
            elif as_json:
                _emit(event)

        report = verify.verify(folder, source, threshold=threshold, watch=watch)
    if as_json:
        _emit_report(report, out)
    else:
        _show(report)
    report.check(folder)


def _emit(event: Finding | Compared) -> None:
    from mlxarch.convert.scan import Finding

    if isinstance(event, Finding):
        emit("finding", **asdict(event))
        return
    scheme = event.scheme.entry if event.scheme else {}
    emit(
        "tensor",
        name=event.name,
        **scheme,
        relative_error=event.relative_error,
        limit=event.limit,
    )


def _emit_report(report: Report, out: str) -> None:
    if report.layers:
        emit("layers", **asdict(report.layers))
    emit(
        "done",
        out=out,
        hashed=len(report.written.files) if report.written else 0,
        tensors=report.tensors,
        compared=len(report.compared),
        unmeasured=report.unmeasured,
        findings=len(report.findings),
    )


def _show(report: Report) -> None:
    hashes = (
        f"{len(report.written.files)} held against mlxarch.json"
        if report.written
        else "no mlxarch.json, so hashes were not checked"
    )
    click.echo(f"{'files':<17}{hashes}")
    click.echo(f"{'tensors':<17}{report.tensors}")
    if report.compared:
        _show_compared(report.compared)
    if report.layers:
        layers = report.layers
        click.echo(f"after layer      relative error ({layers.text})")
        for i, error in enumerate(layers.errors):
            click.echo(f"{i:11}{error:20.4g}")
        click.echo(f"{'mean KL':<17}{layers.mean_kl:.4g} nats")
        click.echo(f"{'top-1 agreement':<17}{layers.top1_agreement:.1%}")
    elif report.unmeasured:
        click.echo(f"{'layers':<17}not compared: {report.unmeasured}")
    for finding in report.findings:
        click.echo(f"{'wrong':<17}{finding.where} {finding.what}")


def _show_compared(compared: list[Compared]) -> None:
    packed = [tensor for tensor in compared if tensor.limit]
    same = [tensor for tensor in compared if not tensor.limit and not tensor.relative_error]
    click.echo(f"{'as the source':<17}{len(same)} of {len(compared)}")
    if not packed:
        return
    click.echo("relative error     limit  tensor")
    worst = sorted(packed, key=lambda tensor: tensor.relative_error, reverse=True)
    for tensor in worst[:_WORST]:
        how = f" ({tensor.scheme})" if tensor.scheme else ""
        click.echo(f"{tensor.relative_error:14.4f}{tensor.limit:10.4f}  {tensor.name}{how}")
    if len(worst) > _WORST:
        click.echo(f"{'':<26}and {len(worst) - _WORST} more, each nearer to its source")
