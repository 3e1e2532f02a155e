"""`mlxarch convert`: a hub checkpoint becomes one in the MLX community's format."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..conversion import carry_out, show
from . import kinds, options

if TYPE_CHECKING:
    from mlxarch.quantize.recipes import Recipe


@click.command(short_help="Turn a hub checkpoint into an MLX checkpoint.")
@click.argument("src")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--dtype",
    type=click.Choice(["bfloat16", "float16", "float32"]),
    help="Cast all floating tensors; without it each keeps the type it has.",
)
@options.recipe(always=False)
@click.option(
    "--shard-size",
    type=kinds.Size(),
    default="1GB",
    show_default=True,
    metavar="SIZE",
    help="No file of tensors is larger, unless a single tensor is.",
)
@click.option(
    "--delete-source-shards",
    "delete",
    is_flag=True,
    help="For a disk that cannot hold both: delete each file of SRC's tensors as soon as all that "
    "is made of it is on the disk and reads back as it was written.",
)
@options.revision
@options.offline
@click.option(
    "--dry-run", is_flag=True, help="Show the plan, read from headers alone; write nothing."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line on stdout.")
def command(
    src: str,
    out: Path,
    dtype: str | None,
    recipe: Recipe | None,
    shard_size: int,
    delete: bool,
    revision: str | None,
    offline: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Convert the checkpoint SRC to the MLX community's format in the new folder OUT.

    SRC is a repository on the hub or a local folder with config.json and safetensors. It is not
    changed, unless --delete-source-shards asks for it. OUT is written beside its place and renamed
    when it is whole; mlxarch and mlx-lm load it. Its path is printed on stdout.

    What was stopped, by Ctrl-C, a kill, a full disk or a lost network, goes on with the same
    command. A repository's files are fetched while earlier ones are converted.

    \b
    Examples:
      mlxarch convert Nanbeige/Nanbeige4.1-3B nanbeige
      mlxarch convert Nanbeige/Nanbeige4.1-3B nanbeige-4bit --bits 4
      mlxarch convert Nanbeige/Nanbeige4.1-3B anywhere --recipe mixed --dry-run
      mlxarch convert arcee-ai/Trinity-Mini out --mode mxfp4 --override lm_head=8
      mlxarch convert zai-org/GLM-5-FP8 glm5 --bits 4 --delete-source-shards
      mlxarch convert ./checkpoint ./out --dtype float16 --json
    """
    from mlxarch.convert import hub, inventory, partial

    if revision and hub.is_folder(src):
        raise click.UsageError(f"--revision is for repositories; {src} is a folder.")
    partial.check_new(out)
    local = hub.is_folder(src)
    begun = inventory.restore(partial.place(out) / partial.STATE, Path(src)) if local else None
    if begun is not None:
        source = begun
    elif local or offline or hub.is_offline():
        source = inventory.find(src, revision=revision, offline=offline)
    else:
        source = inventory.look_afar(src, revision=revision)

    # These import mlx-lm, which takes seconds: what is not there is said before.
    from mlxarch.convert import plan

    planned = plan.make(source, dtype=dtype, recipe=recipe, shard_bytes=shard_size)
    if dry_run:
        show(planned, out, as_json, delete=delete)
        return
    carry_out(planned, out, as_json, delete=delete)
    if not as_json:
        click.echo(out)
