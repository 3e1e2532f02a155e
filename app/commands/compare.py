"""`mlxarch compare`: models side by side, from their configs alone."""

import json

import click

from . import options


@click.command(short_help="Set models side by side.")
@click.argument("models", nargs=-1, required=True, metavar="MODEL MODEL...")
@options.offline
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line for each model.")
def command(models: tuple[str, ...], offline: bool, as_json: bool) -> None:
    """Compare two or more models: layers, parameters, and what weights and cache cost.

    MODEL is a repository, a checkpoint's folder or a config.json, as for `mlxarch show`, which
    explains the figures. A row in which the models differ is marked with ≠.

    \b
    Examples:
      mlxarch compare arcee-ai/Trinity-Mini arcee-ai/Trinity-Large-Base
      mlxarch compare ./GLM-5 ./Kimi-K2.5 ./Ling-2.5-1T --offline
    """
    from .. import anatomy

    if len(models) < 2:
        raise click.UsageError("compare takes two models or more; `mlxarch show` takes one.")
    found = [anatomy.look(model, offline=offline) for model in models]
    if as_json:
        for name, one in found:
            click.echo(json.dumps(anatomy.as_json(name, one), ensure_ascii=False))
        return
    from .. import pictures

    console = pictures.console()
    console.print(pictures.comparison(found, console.width))
