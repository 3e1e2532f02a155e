"""`mlxarch quantize`: a checkpoint in fewer bits, and what that costs."""

from dataclasses import asdict
from pathlib import Path

import click

from mlxarch.quantize.scheme import BITS, GROUP_SIZES, Scheme

from ..progress import bar, emit
from ..words import size
from .convert import carry_out, show


@click.command(short_help="Make a checkpoint smaller, and measure what that costs.")
@click.argument("src")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--bits",
    type=click.Choice([str(bits) for bits in BITS]),
    default="4",
    show_default=True,
    help="Bits for each weight of linear layers and embeddings.",
)
@click.option(
    "--group-size",
    type=click.Choice([str(size) for size in GROUP_SIZES]),
    default="64",
    show_default=True,
    help="Weights that share a scale; a row that is no multiple stays as it is.",
)
@click.option(
    "--dry-run", is_flag=True, help="Show the plan, read from headers alone; write nothing."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line on stdout.")
def command(src: str, out: Path, bits: str, group_size: str, dry_run: bool, as_json: bool) -> None:
    """Quantize the checkpoint SRC into the new folder OUT, and measure what is lost.

    SRC is a local folder in any spelling, or a repository that is in the hub's cache. Norms,
    biases and routers are never quantized. Stdout lists each tensor's relative error; then both
    models read a short text, one layer in memory at a time, and the mean KL divergence and top-1
    agreement of their predictions are given.

    \b
    Examples:
      mlxarch quantize ./nanbeige ./nanbeige-4bit
      mlxarch quantize ./nanbeige ./nanbeige-8bit --bits 8 --group-size 32
      mlxarch quantize ./nanbeige ./anywhere --bits 3 --dry-run
    """
    from mlxarch.convert import inventory, partial

    partial.check_target(out)
    source = inventory.find(src, offline=True)

    # This imports mlx-lm, which takes seconds: what is not there is said before.
    from mlxarch.convert import plan

    planned = plan.make(source, scheme=Scheme(int(bits), int(group_size)))
    if dry_run:
        show(planned, out, as_json)
        return
    tensors = carry_out(planned, out, as_json)
    if not as_json:
        click.echo("relative error  bits  tensor")
        for tensor in tensors:
            scheme, error = tensor.output.scheme, tensor.relative_error
            if scheme is not None:
                click.echo(f"{error:14.4f}  {scheme.bits:4}  {tensor.output.name}")
        click.echo(f"{out} is whole; what follows only measures it.", err=True)
    with bar("Measuring", bytes=False) as advance:
        from mlxarch.quantize import quality

        assert source.folder is not None
        found = quality.compare(source.folder, out, advance)
    if as_json:
        emit("quality", **asdict(found))
        return
    read = f"({found.tokens} tokens of {found.text})"
    click.echo(f"mean KL          {found.mean_kl:.4f} nats {read}")
    click.echo(f"top-1 agreement  {found.top1_agreement:.1%}")
    click.echo(f"bits per weight  {planned.bits_per_weight:.2f}")
    click.echo(f"size             {size(planned.bytes_in)} to {size(planned.bytes_out)}")
