"""`mlxarch quantize`: a checkpoint in fewer bits, and what that costs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from mlxarch.quantize.recipes import Recipe, candidate

from .. import calibration as calibrate
from .. import quality
from ..conversion import carry_out, show
from . import kinds, options


class _Candidates(click.ParamType):
    """Recipes by their names, divided by commas."""

    name = "candidates"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> dict[str, Recipe]:
        names = [name.strip() for name in value.split(",")]
        if not all(names):
            self.fail(f"{value!r} has nothing between two commas.", param, ctx)
        try:
            return {name: candidate(name) for name in names}
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command(short_help="Make a checkpoint smaller, and measure what that costs.")
@click.argument("src")
@click.argument("out", type=click.Path(path_type=Path))
@options.recipe(always=True)
@click.option(
    "--method",
    type=click.Choice(["round", "gptq"]),
    default="round",
    show_default=True,
    help="round: each weight to the nearest; gptq: so that what layers compute changes least, by a "
    "text that the model reads.",
)
@click.option(
    "--target-bpw",
    metavar="BITS",
    type=click.FloatRange(min=0, min_open=True),
    help="Give each tensor the bits that it is worth, all together at most so many a weight, "
    "scales and what stays as it is included.",
)
@click.option(
    "--target-size",
    metavar="SIZE",
    type=kinds.Size(),
    help="The same for the bytes of all weights that are written: 12GB.",
)
@click.option(
    "--calibration",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The text that gptq and a target let the model read, of which some 16,000 tokens count; "
    "without it, one that comes with mlxarch.",
)
@click.option(
    "--compare",
    metavar="LIST",
    type=_Candidates(),
    help="Write no weights; measure several recipes or formats, such as 4,mxfp4,mixed:3, and put "
    "them into one table on stdout and one picture in OUT.",
)
@click.option(
    "--text",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Measure on this text, of which some 2,000 tokens are read; without it, on one that comes "
    "with mlxarch.",
)
@click.option(
    "--dry-run", is_flag=True, help="Show the plan, read from headers alone; write nothing."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line on stdout.")
def command(
    src: str,
    out: Path,
    recipe: Recipe,
    method: str,
    target_bpw: float | None,
    target_size: int | None,
    calibration: Path | None,
    compare: dict[str, Recipe] | None,
    text: Path | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Quantize the checkpoint SRC into the new folder OUT, and measure what is lost.

    SRC is a local folder in any spelling, or a repository that is in the hub's cache. Norms,
    biases and convolutions are never quantized, routers and gates only if an override asks for it.
    Stdout lists each tensor's relative error; then both models read a short text, one layer of each
    in memory at a time, and what is lost is shown: the ratio of their perplexities, the KL
    divergence and the top-1 agreement of their predictions. The same is in quality.json,
    quality.svg and README.md of OUT.

    \b
    Examples:
      mlxarch quantize ./nanbeige ./nanbeige-4bit
      mlxarch quantize ./nanbeige ./nanbeige-mixed --recipe mixed --bits 3
      mlxarch quantize ./nanbeige ./mxfp4 --mode mxfp4 --override layers.0=8
      mlxarch quantize ./nanbeige ./nanbeige-best --method gptq --target-bpw 4.5
      mlxarch quantize ./nanbeige ./anywhere --bits 3 --dry-run
      mlxarch quantize ./nanbeige ./nanbeige-choice --compare 4,mxfp4,mixed
    """
    from mlxarch.convert import inventory, partial

    targeted = target_bpw is not None or target_size is not None
    if target_bpw is not None and target_size is not None:
        raise click.UsageError("--target-bpw and --target-size are two ways to say one thing.")
    if targeted and not recipe.base.affine:
        raise click.UsageError("A target mixes affine bits; leave --mode out.")
    if calibration is not None and method == "round" and not targeted:
        raise click.UsageError("--calibration is read for --method gptq or a target; give one.")
    if compare is not None and (targeted or method != "round"):
        raise click.UsageError("--compare rounds; it takes no --method and no target.")
    if compare is None:
        partial.check_new(out)
    elif recipe != Recipe(overrides=recipe.overrides):
        raise click.UsageError("--compare says which formats; of the others it takes --override.")
    source = inventory.find(src, offline=True)

    # This imports mlx-lm, which takes seconds: what is not there is said before.
    from mlxarch.convert import measure, plan
    from mlxarch.convert.target import Target

    if compare is not None:
        overrides = recipe.overrides
        plans = {
            name: plan.make(source, recipe=replace(each, overrides=overrides))
            for name, each in compare.items()
        }
        if dry_run:
            quality.show(plans, as_json)
        else:
            quality.compare(plans, out, text, as_json)
        return
    target = Target(target_size, target_bpw) if targeted else None
    planned, how, damages = calibrate.plan(
        source, recipe, target, calibration, gptq=method == "gptq"
    )
    if dry_run:
        show(planned, out, as_json, how)
        return
    read = measure.read_text(planned, text)
    tensors = carry_out(planned, out, as_json, how)
    if damages:
        calibrate.store(out, planned, damages, as_json)
    if not as_json:
        click.echo("relative error  scheme  tensor")
        for tensor in tensors:
            scheme, error = tensor.output.scheme, tensor.relative_error
            if scheme is not None:
                click.echo(f"{error:14.4f}  {scheme.word:6}  {tensor.output.name}")
        click.echo(f"{out} is whole; what follows only measures it.", err=True)
    quality.measure(planned, out, read, as_json)
