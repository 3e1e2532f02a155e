"""`mlxarch fit`: will it fit, before anything is downloaded."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from . import kinds, options

if TYPE_CHECKING:
    from ..fit import Fit


@click.command(short_help="Say whether a model fits this machine, and about how quick it is.")
@click.argument("model", required=False)
@click.option(
    "--context",
    type=kinds.Tokens(),
    help="Tokens of conversation to make room for: 8k, 32k, 131072.  [default: 32k, or what the "
    "model holds]",
)
@click.option(
    "--memory",
    type=kinds.Size(),
    help="Bytes that the model may take: 32GB.  [default: what this machine has for one]",
)
@options.kv_bits
@options.revision
@options.offline
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line for each form.")
@click.pass_context
def command(
    ctx: click.Context,
    model: str | None,
    context: int | None,
    memory: int | None,
    kv_bits: int | None,
    revision: str | None,
    offline: bool,
    as_json: bool,
) -> None:
    """Say whether MODEL fits this machine; without MODEL, what of all does.

    It is told from headers and config.json alone: of a repository that is not here, no weights are
    fetched. What is in the way is shown as a sum: weights as MLX holds them (on a CPU, floats are
    computed in float32, which doubles them), the cache of a conversation, and what reading a prompt
    takes meanwhile. Against it stands what Metal recommends as working set, the GPU's memory, or
    this machine's. Where nothing fits, the exit code is 4.

    The speed is a bound and not a promise: no token comes sooner than memory gives the bytes it is
    computed from. `mlxarch bench` measures.

    Without MODEL: what is here (in the hub's cache, with LM Studio, in folders of this one), and a
    list of the ten families that comes with mlxarch and needs no network. The same list answers for
    a MODEL that the hub cannot be asked about, and that is said.

    \b
    Examples:
      mlxarch fit
      mlxarch fit mlx-community/Trinity-Mini-4bit --context 64k
      mlxarch fit Qwen/Qwen3.5-27B --memory 32GB --kv-bits 8
    """
    from .. import catalogue
    from ..fit import Fit, Machine, best

    machine = Machine.here(memory)
    if model is None:
        afar = [Fit.all(one.model, machine, context, kv_bits) for one in catalogue.entries()]
        if as_json:
            # What needs no model's files comes first: the chat waits for it.
            for fits in afar:
                _emit(fits, here=False)
        from .. import fitting

        here = [Fit.all(one, machine, context, kv_bits) for one in fitting.here()]
        if as_json:
            for fits in here:
                _emit(fits, here=True)
            return
        from .. import fit_shown

        fit_shown.overview(machine, here, afar)
        return
    from .. import fit_shown, fitting

    found = fitting.look(model, revision, offline)
    fits = Fit.all(found, machine, context, kv_bits)
    if found.reason:
        click.echo(f"{found.reason} What follows is from the catalogue within mlxarch.", err=True)
    if context and context > found.context:
        click.echo(
            f"{found.name} holds {found.context:,} tokens and not {context:,}; the sum is for what "
            "it holds.",
            err=True,
        )
    if as_json:
        _emit(fits)
    else:
        fit_shown.sums(fits)
    if best(fits).verdict == "too large":
        ctx.exit(4)


def _emit(fits: Sequence[Fit], **more: bool) -> None:
    from ..fit import best

    chosen = best(fits)
    for fit in fits:
        told = {**fit.as_json(), "suggested": fit is chosen, **more}
        click.echo(json.dumps(told, ensure_ascii=False))
    sys.stdout.flush()
