"""What fits, for people: one model's sums side by side, or all models in a line each."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from mlxarch.words import many, size

from .chat.figures import tokens
from .fit import STEP, Fit, Machine, best
from .pictures import console

_SIGNS = {"fits": ("●", "green"), "tight": ("◐", "yellow"), "too large": ("○", "red")}
_WIDE = 76  # columns that all of a table needs
_LETTERS = str.maketrans("●◐○", "+~-")  # for who has no UTF-8


def sums(fits: Sequence[Fit]) -> None:
    """How the verdict on each form of a model comes about."""
    out, model = console(), fits[0].model
    out.print(Text(model.name, style="bold"))
    out.print(
        f"{model.family}, {many(model.parameters)} parameters, {many(model.active)} active, "
        f"context {model.context:,}"
    )
    table = Table.grid(padding=(0, 3, 0, 0))
    table.add_row("", *(Text(fit.form.name, style="bold") for fit in fits))
    for lines in zip(*(_rows(fit) for fit in fits), strict=True):
        table.add_row(lines[0][0], *(value for _, value in lines))
    out.print(table)
    for fit in fits:
        if fit.verdict != "too large":
            out.print(f"{fit.form.name}: {_speed(fit)}.")
    if fits[0].vision:
        out.print(f"Its vision tower takes {size(fits[0].vision)} more from the first picture on.")
    for fit in fits:
        if fit.form.repo and fit.form.repo != model.name:
            out.print(f"{fit.form.name}: to be had as {fit.form.repo}.")


def overview(
    machine: Machine, here: Sequence[Sequence[Fit]], afar: Sequence[Sequence[Fit]]
) -> None:
    """All models, each in the form that keeps most of it and has room."""
    out = console()
    letters = _LETTERS if out.options.ascii_only else {}
    out.print(
        f"{machine.device}, {size(machine.memory)} ({machine.source}), read at "
        f"{size(int(machine.bandwidth))}/s"
    )
    table = Table(box=None, pad_edge=False, header_style="dim")
    heads = ["", "model", "weights", "as", "on disk", "memory", "tokens/s"]
    if out.width < _WIDE:
        heads = [head for head in heads if head not in ("as", "on disk")]
    for head in heads:
        left = head in ("", "model", "as")
        # A name is there to be copied: all of it.
        table.add_column(
            head,
            justify="left" if left else "right",
            no_wrap=head != "model",
            overflow="fold" if head == "model" else "ellipsis",
        )
    for title, models in (("Here", here), ("To be fetched", afar)):
        if models:
            table.add_row("", Text(title, style="bold"))
        for fit in map(best, models):
            sign, colour = _SIGNS[fit.verdict]
            cells = {
                "": Text(sign.translate(letters), style=colour),
                "model": fit.form.repo or fit.model.name,
                "weights": many(fit.model.parameters),
                "as": fit.form.name.partition(",")[0],
                "on disk": size(fit.form.disk),
                "memory": size(fit.together),
                "tokens/s": "" if fit.verdict == "too large" else f"< {fit.tokens_per_second:,.0f}",
            }
            table.add_row(*(cells[head] for head in heads))
    out.print(table)
    keys = "  ".join(f"{sign} {verdict}" for verdict, (sign, _) in _SIGNS.items())
    out.print(f"{keys.translate(letters)}. `mlxarch fit MODEL` shows the sum.")


def _rows(fit: Fit) -> list[tuple[str, str]]:
    """How the verdict comes about: what each part takes, and what there is."""
    machine = fit.machine
    packed = f" in {fit.kv_bits} bits" if fit.kv_bits else ""
    return [
        ("on disk", size(fit.form.disk)),
        ("weights in memory", size(fit.weights)),
        (f"+ cache of {tokens(fit.tokens)}{packed}", size(fit.cache)),
        ("+ reading a prompt, about", size(fit.working)),
        ("= together", size(fit.together)),
        (f"of {machine.source}", size(machine.memory)),
        ("", _sentence(fit)),
    ]


def _sentence(fit: Fit) -> str:
    """The verdict in words, with what would help."""
    if fit.verdict == "fits":
        return f"fits, {size(fit.machine.memory - fit.together)} to spare"
    if fit.verdict == "tight":
        return "tight: fits if little else runs"
    if fit.most_tokens >= STEP:
        return f"too large; {fit.most_tokens:,} tokens would fit"
    return f"too large by {size(fit.together - fit.machine.memory)}"


def _speed(fit: Fit) -> str:
    """The bound on tokens a second, and where it comes from."""
    rate = fit.tokens_per_second
    return (
        f"at most {f'{rate:,.0f}' if rate >= 9.95 else f'{rate:.1f}'} tokens/s, an estimate: "
        f"{size(fit.read)} are read for each token, and memory gives "
        f"{size(int(fit.machine.bandwidth))}/s here"
    )
