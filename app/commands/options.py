"""What several commands ask in the same words."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from mlxarch.quantize.recipes import DEFAULT, ROOM, Override, Recipe
from mlxarch.quantize.scheme import BITS, GROUP_SIZES, MODES, Scheme

from ..sampling import Sampling
from . import kinds


def _texts(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    if not all(value):
        raise click.BadParameter("an empty text would end every answer; give a longer one.")
    return value


revision = click.option("--revision", metavar="REV", help="Branch, tag or commit of a repository.")
offline = click.option("--offline", is_flag=True, help="Use only what has been downloaded before.")
draft = click.option(
    "--draft",
    metavar="heads|lookup|off|MODEL",
    help="Who guesses tokens ahead, which changes how soon an answer comes and not what it says: "
    "the model's own heads; what followed the same words before; nobody; or a smaller MODEL with "
    "the same tokens.  [default: heads, if it has any]",
)
kv_bits = click.option(
    "--kv-bits",
    type=click.Choice(["8", "4"]),
    callback=lambda ctx, param, value: value and int(value),
    help="Keep keys and values in so many bits: a long context takes about half the memory, or a "
    "third. 8 changes next to nothing, 4 can be felt. What a model cannot keep so stays as it is "
    "and is named.  [default: as they are computed]",
)
memory = click.option(
    "--memory",
    metavar="SIZE",
    type=kinds.Size(),
    help="What the engine may take at most, such as 12GB; near it, prompts are read in smaller "
    "pieces, and then the answer ends.  [default: what the machine recommends]",
)
wired = click.option(
    "--wired",
    metavar="SIZE",
    type=kinds.Size(),
    help="On a Mac: so much of the model stays in memory, such as 12GB, whatever else wants some; "
    "more than Metal recommends is refused.  [default: as macOS sees fit]",
)
keep_prompts = click.option(
    "--keep-prompts",
    metavar="SIZE",
    type=kinds.Size(),
    help="Keep what was read on disk, in files of SIZE together at most, such as 5GB: a "
    "conversation that is taken up again later need not be read again.  [default: not kept]",
)
_SAMPLING = (
    click.option("--max-tokens", type=click.IntRange(min=1), help="The longest answer."),
    click.option(
        "--temp",
        type=kinds.Number(min=0),
        help="Temperature; 0 is always the likeliest.  [default: the publisher's, else 0]",
    ),
    click.option(
        "--top-p",
        type=kinds.Number(0, 1, min_open=True),
        help="Nucleus to sample from.  [default: the publisher's, else 1]",
    ),
    click.option(
        "--top-k",
        type=click.IntRange(min=0),
        help="Sample from so many of the likeliest; 0 is all.  [default: the publisher's, else 0]",
    ),
    click.option(
        "--min-p",
        type=kinds.Number(0, 1),
        help="Sample from what is at least so likely, beside the likeliest.  "
        "[default: the publisher's, else 0]",
    ),
    click.option(
        "--repetition-penalty",
        type=kinds.Number(min=0, min_open=True),
        help="Above 1, what was said before gets less likely.  [default: the publisher's, else 1]",
    ),
    click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="The same answers each time."),
    click.option(
        "--stop",
        metavar="TEXT",
        type=kinds.Text(),
        multiple=True,
        callback=_texts,
        help="End the answer before TEXT; may be given several times.",
    ),
    click.option(
        "--switch",
        "switches",
        metavar="NAME=VALUE",
        type=kinds.Switch(),
        multiple=True,
        help="What the model's chat template is told, such as enable_thinking=false; may be given "
        "several times. What there is to set is said for a name that is not known.",
    ),
    click.option(
        "--thinking-tokens",
        type=click.IntRange(min=0),
        help="End the model's thinking after so many.  [default: it ends by itself]",
    ),
)
_OPTIONS = (
    click.option(
        "--bits",
        type=click.Choice([str(bits) for bits in BITS]),
        help="Bits of a weight, where the recipe gives no others; 4 without it, 8 with mxfp8.",
    ),
    click.option(
        "--group-size",
        type=click.Choice([str(size) for size in GROUP_SIZES]),
        help="Weights that share a scale: 32, 64 or 128 in affine mode, where it is 64 without it.",
    ),
    click.option(
        "--mode",
        type=click.Choice(list(MODES)),
        help="Affine has a scale and a bias a group, the others are floats of 4 or 8 bits.",
    ),
    click.option(
        "--recipe",
        "name",
        type=click.Choice(list(ROOM)),
        help="Who gets more bits. default: what is fragile, within 1 % of what mlx-lm writes; "
        "mixed: more than that, within 10 %; uniform: what mlx-lm does.",
    ),
    click.option(
        "--override",
        "overrides",
        metavar="REGEX=BITS",
        type=kinds.Bits(),
        multiple=True,
        help="What the tensors get whose mlx-lm name REGEX finds: 6, 4g32, mxfp8 ... or keep. May "
        "be given several times; the last that finds a name counts.",
    ),
)


def sampling(command: Callable[..., None]) -> Callable[..., None]:
    """Options for an answer, which the command gets as one `sampling`."""

    @wraps(command)
    def call(
        *,
        max_tokens: int | None,
        temp: float | None,
        top_p: float | None,
        top_k: int | None,
        min_p: float | None,
        repetition_penalty: float | None,
        seed: int | None,
        stop: tuple[str, ...],
        switches: tuple[tuple[str, Any], ...],
        thinking_tokens: int | None,
        **others: Any,
    ) -> None:
        chosen = Sampling(
            max_tokens=max_tokens,
            temperature=temp,
            top_p=top_p,
            top_k=top_k,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
            stop=list(stop),
            switches=dict(switches),
            thinking_tokens=thinking_tokens,
        )
        command(sampling=chosen, **others)

    for option in reversed(_SAMPLING):
        call = option(call)
    return call


def recipe(*, always: bool) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Options for quantization, which the command gets as one `recipe`.

    Args:
        always: Whether it quantizes without being asked; else `recipe` may be None.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def call(
            *,
            bits: str | None,
            group_size: str | None,
            mode: str | None,
            name: str | None,
            overrides: tuple[Override, ...],
            **others: Any,
        ) -> None:
            wanted = always or bits or mode or name
            if not wanted and (group_size or overrides):
                raise click.UsageError(
                    "--group-size and --override only say how to quantize; "
                    "give --bits, --mode or --recipe as well."
                )
            try:
                base = Scheme.of(mode or "affine", int(bits or 0), int(group_size or 0))
            except ValueError as error:
                raise click.UsageError(str(error)) from error
            found = Recipe(name or DEFAULT, base, overrides) if wanted else None
            command(recipe=found, **others)

        for option in reversed(_OPTIONS):
            call = option(call)
        return call

    return decorate
