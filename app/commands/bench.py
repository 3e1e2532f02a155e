"""`mlxarch bench`: how quick a model is on this machine."""

import json
from pathlib import Path
from typing import Any

import click

from mlxarch.quantize.recipes import Recipe

from . import kinds, options


class _Lengths(click.ParamType):
    """Numbers of tokens: 32,1k,8k."""

    name = "lengths"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[int]:
        found = []
        for word in value.lower().split(","):
            digits, thousands = word.strip().removesuffix("k"), word.strip().endswith("k")
            if not digits.isdecimal() or int(digits) * (1024 if thousands else 1) < 2:
                self.fail(f"{word!r} is no length of two tokens or more; wanted is 512 or 8k.")
            found.append(int(digits) * (1024 if thousands else 1))
        return sorted(set(found))


@click.command(short_help="Measure how quick a model is here, beside mlx-lm if asked.")
@click.argument("model", required=False)
@click.option(
    "--context",
    "contexts",
    default="32,1k,4k",
    show_default=True,
    metavar="TOKENS,...",
    type=_Lengths(),
    help="Lengths of the prompt; what the model's context does not hold is left out.",
)
@click.option(
    "--tokens", default=64, show_default=True, type=click.IntRange(min=2), help="Of an answer."
)
@click.option(
    "--rounds", default=3, show_default=True, type=click.IntRange(min=1), help="Runs of each."
)
@click.option(
    "--limit",
    default=30.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds that reading a prompt, or answering it, may take about; who is slower gets fewer "
    "tokens, and the table says so.",
)
@options.draft
@options.kv_bits
@click.option("--against", type=click.Choice(["mlx-lm"]), help="Who takes turns with us.")
@click.option(
    "--prompt",
    metavar="TEXT",
    default="How do I convert a model, and how do I quantize it to 4 bits?",
    help="What is asked, behind as much text as the prompt is to be long.",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A config.json in place of MODEL, for random weights in its shape.",
)
@click.option("--layers", type=click.IntRange(min=1), help="Only the first layers of --config.")
@click.option(
    "--format",
    "recipe",
    type=kinds.Candidate(),
    help="How the weights of --config are packed, as `quantize --compare` reads it.  [default: 4]",
)
@options.revision
@options.offline
@click.option("--json", "as_json", is_flag=True, help="One JSON object with every run.")
def command(
    model: str | None,
    contexts: list[int],
    tokens: int,
    rounds: int,
    limit: float,
    draft: str | None,
    kv_bits: int | None,
    against: str | None,
    prompt: str,
    config: Path | None,
    layers: int | None,
    recipe: Recipe | None,
    as_json: bool,
    revision: str | None,
    offline: bool,
) -> None:
    """Measure how quick MODEL reads prompts and answers; without MODEL, the built-in guide.

    All that is measured takes turns, so that a busy machine slows all of it alike: believe ratios
    more than figures. Answers are greedy and come one at a time. The first row is plain decoding;
    with heads, or with another --draft, the next one guesses ahead, and --kv-bits adds one.

    \b
    prefill    tokens of the prompt that are read in a second
    decode     tokens of the answer in a second, after the first one
    bandwidth  bytes that plain decoding reads, of those this machine can
    right      guesses that were
    memory     what MLX held at the worst moment, beyond weights

    With --against mlx-lm the same weights go through mlx-lm's own loop; on a CPU in float32 too,
    since the bfloat16 it takes by itself is slow there. With --config no weights are needed: random
    ones are written to a temporary folder, in the shape of a released model's first --layers.

    \b
    Examples:
      mlxarch bench
      mlxarch bench ./Nanbeige4.1-3B-4bit --context 512,8k --against mlx-lm
      mlxarch bench --config Qwen3.5-27B.json --layers 8
    """
    from tempfile import TemporaryDirectory

    from ..bench import prepare, table
    from ..bench.measure import Row, measure
    from ..model import WITHOUT_MODEL, resolve, resolve_draft
    from ..pictures import console
    from ..progress import bar

    if config is None and (layers or recipe):
        raise click.UsageError("--layers and --format only shape the weights of --config; give it.")
    if config is not None and draft and draft not in WITHOUT_MODEL:
        raise click.UsageError("Random weights have no tokens that a --draft model could know.")
    if config is not None and model is not None:
        raise click.UsageError("MODEL has its weights and --config makes some; give one of them.")
    with TemporaryDirectory(prefix="mlxarch-bench-") as made:
        if config is not None:
            folder, name = Path(made), config.stem
            prepare.synthesize(config, folder, layers, recipe or Recipe())
        else:
            folder, name = resolve(model, revision, offline), None
        who = resolve_draft(draft, offline) or "heads"
        bench = prepare.prepare(folder, name, who, kv_bits, against is not None, prompt, contexts)
        setting = bench.setting(tokens, rounds)
        show, tables = console(), list[list[Row]]()
        if not as_json:
            show.print(table.heading(setting))
        try:
            with bar("Measuring", bytes=False) as progress:
                for rows in measure(
                    bench.runners,
                    bench.prompts,
                    tokens=tokens,
                    rounds=rounds,
                    limit=limit,
                    progress=progress,
                ):
                    tables.append(rows)
                    if not as_json:
                        show.print()
                        show.print(table.table(setting, rows))
        finally:
            # What was measured before somebody had enough is worth something.
            if as_json and tables:
                click.echo(json.dumps(table.as_json(setting, tables)))
