"""`mlxarch show`: what a model is made of, from its config alone."""

import json
import os

import click

from . import options


@click.command(short_help="Draw a model's layers and count its bytes.")
@click.argument("model")
@options.revision
@options.offline
@click.option("--json", "as_json", is_flag=True, help="Everything as one JSON object on one line.")
def command(model: str, revision: str | None, offline: bool, as_json: bool) -> None:
    """Show what MODEL is made of: its layers, its parameters, and what weights and cache cost.

    MODEL is a repository on the hub, of which only config.json is fetched, a checkpoint's folder,
    or a config.json; no weights are needed or loaded. Where weights lie beside the config, what is
    on disk is shown too.

    \b
    Reading it:
      active       what one token is multiplied by: of the experts only the chosen
                   ones; the input embedding is a lookup and does not count,
                   unless it is the output head too
      4-bit        affine in groups of 64, 4.5 bits a weight; norms, biases,
                   routers and convolutions stay in bf16
      fixed        cache of full windows and of recurrent states (in float32)
      + per token  what each further token adds; one sequence, without MTP
    Vision towers are not counted.

    \b
    Examples:
      mlxarch show arcee-ai/Trinity-Mini
      mlxarch show ./Trinity-Mini/config.json --json
      mlxarch compare ./Trinity-Mini ./Qwen3-Coder-Next
    """
    from mlxarch.files import local

    from .. import anatomy

    if revision and os.path.exists(local(model)):
        raise click.UsageError(f"--revision is for repositories; {model} is here.")
    name, found = anatomy.look(model, revision=revision, offline=offline)
    if as_json:
        click.echo(json.dumps(anatomy.as_json(name, found), ensure_ascii=False))
        return
    from .. import pictures

    console = pictures.console()
    console.print(pictures.picture(name, found, console.width))
