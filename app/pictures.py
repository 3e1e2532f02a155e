"""A model's anatomy on the terminal: the plan of its layers as a strip, and its figures.

A column of the strip is a layer: the upper letter says how it mixes tokens, the lower one what
its feed-forward is. Warm colours are what grows the cache with every token.
"""

from collections.abc import Callable, Iterable, Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from mlxarch.anatomy import Anatomy
from mlxarch.plan import Layer
from mlxarch.words import many, size

from .anatomy import (
    LENGTHS,
    mixer_details,
    mixer_word,
    mlp_details,
    mlp_word,
    period,
    plan,
)

_LEFT = 6  # columns before a strip
_TENS = 10  # layers that stand together where the plan repeats nothing
_INK = "bold #14181d"
# The letter of a word, and its colour.
_LETTERS = {
    "window": ("W", "#7fb7be"),
    "full": ("F", "#e3a04f"),
    "MLA": ("M", "#e8c15a"),
    "sparse MLA": ("S", "#d9905f"),
    "shared sparse MLA": ("s", "#e0b394"),
    "DeltaNet": ("D", "#8fc98a"),
    "lightning": ("L", "#9fb4dd"),
    "dense": ("d", "#b9c0c8"),
    "experts": ("e", "#c3a6d8"),
}


def console() -> Console:
    """Where results go: as wide as the terminal, plain in a pipe or under NO_COLOR."""
    return Console(highlight=False, emoji=False, markup=False)


def picture(name: str, anatomy: Anatomy, width: int) -> RenderableType:
    """One model, in one glance."""
    a = anatomy
    parts = [
        Text(name, style="bold"),
        Text(
            f"{a.architecture} ({a.model_type}) · {many(a.total.parameters)} parameters, "
            f"{many(a.active.parameters)} active"
        ),
        Text(
            f"{len(a.layers)} layers of width {a.dim:,} · vocabulary {a.vocab:,} · "
            f"context {a.context:,}"
        ),
        Text(),
        strip(a, width),
        Text(),
        _legend(a),
        Text(),
        _weights(a),
        Text(),
        _cache(a),
    ]
    files = [("on disk", _stored(a)), ("packed as", a.quantization)]
    if known := [f"  {label} {text}" for label, text in files if text]:
        parts += [Text(), Text("\n".join(known))]
    return Group(*parts)


def comparison(models: Sequence[tuple[str, Anatomy]], width: int) -> RenderableType:
    """Some models side by side; a row in which they differ has a mark."""
    parts: list[RenderableType] = []
    for name, anatomy in models:
        parts += [Text(name, style="bold"), strip(anatomy, width), Text()]
    used = dict.fromkeys(word for _, a in models for words in _words(a) for word in words)
    parts.append(Text("  ").join(_key(word) for word in _LETTERS if word in used))
    table = Table.grid(padding=(0, 2, 0, 0), expand=True)
    table.add_column(width=1, style="bold yellow")
    table.add_column(no_wrap=True)
    for _ in models:
        table.add_column(ratio=1, overflow="fold")
    table.add_row("", "", *(Text(name, style="bold") for name, _ in models))
    for label, value in _ROWS.items():
        values = [value(anatomy) for _, anatomy in models]
        if any(values):
            differ = len(set(values)) > 1
            cells = (Text(text, style="" if differ else "dim") for text in values)
            table.add_row("≠" if differ else "", label, *cells)
    return Group(*parts, Text(), table)


def strip(anatomy: Anatomy, width: int) -> RenderableType:
    """The layers as two rows of letters, cut into lines that fit."""
    mixers, mlps = _words(anatomy)
    each = period(mixers) or _TENS
    groups = -(-len(mixers) // each)
    fitting = max(1, (width - _LEFT + 1) // (each + 1))
    run = -(-groups // -(-groups // fitting)) * each
    lines = []
    for first in range(0, len(mixers), run):
        lines += [Text()] if first else []
        for label, words in ((str(first), mixers), ("", mlps)):
            line = Text(f"{label:>{_LEFT - 2}}  ", style="dim")
            for i, word in enumerate(words[first : first + run]):
                letter, colour = _LETTERS[word]
                line.append(" " if i and i % each == 0 else "")
                line.append(letter, style=f"{_INK} on {colour} not dim")
            lines.append(line)
    return Group(*lines)


def _words(anatomy: Anatomy) -> tuple[list[str], list[str]]:
    """Each layer's mixer and its feed-forward, in a word."""
    layers = anatomy.layers
    return [mixer_word(layer.mixer) for layer in layers], [mlp_word(layer.mlp) for layer in layers]


def _key(word: str) -> Text:
    letter, colour = _LETTERS[word]
    return Text.assemble((f" {letter} ", f"{_INK} on {colour}"), f" {word}")


def _legend(a: Anatomy) -> RenderableType:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column(justify="right")
    for (word, details), count in _counted(map(_mixer, a.layers)):
        table.add_row(_key(word), f"{count} x", details)
    for (word, details), count in _counted(map(_mlp, a.layers)):
        table.add_row(_key(word), f"{count} x", details)
    plans = dict.fromkeys(plan(words) for words in _words(a))
    return Group(table, *(Text(f"   {text}", style="dim") for text in plans))


def _mixer(layer: Layer) -> tuple[str, str]:
    return mixer_word(layer.mixer), mixer_details(layer.mixer)


def _mlp(layer: Layer) -> tuple[str, str]:
    return mlp_word(layer.mlp), mlp_details(layer.mlp)


def _counted(parts: Iterable[tuple[str, str]]) -> list[tuple[tuple[str, str], int]]:
    parts = list(parts)
    return [(part, parts.count(part)) for part in dict.fromkeys(parts)]


def _weights(a: Anatomy) -> RenderableType:
    rows = {"total": a.total}
    if a.heads:
        rows[f"with {_heads(a)}"] = a.total + a.mtp
    rows["active, per token"] = a.active
    if a.vision.parameters:
        rows["vision tower, apart"] = a.vision
    table = _table("weights", "parameters", "bf16", "4-bit")
    for label, s in rows.items():
        table.add_row(f"  {label}", f"{s.parameters:,}", size(s.bf16), size(s.bits4))
    return table


def _cache(a: Anatomy) -> RenderableType:
    table = _table("cache in bf16", "fixed", "+ per token", *LENGTHS)
    lengths = (size(a.cache_bytes(tokens)) for tokens in LENGTHS.values())
    table.add_row("  one sequence", size(a.cache_fixed), size(a.cache_per_token), *lengths)
    return table


def _table(title: str, *columns: str) -> Table:
    """Figures under headings; the first column is words."""
    table = Table(box=None, padding=(0, 3, 0, 0), pad_edge=False, header_style="dim")
    table.add_column(title, header_style="bold", min_width=20)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _heads(a: Anatomy) -> str:
    return f"{a.heads} MTP head{'s' if a.heads > 1 else ''}" if a.heads else ""


def _stored(a: Anatomy) -> str:
    """What lies in the files: "2.21 GB in 1 file (U32 1.97 GB, BF16 246 MB)"."""
    if a.stored is None:
        return ""
    types = sorted(a.stored.bytes.items(), key=lambda item: -item[1])
    listed = ", ".join(f"{dtype} {size(count)}" for dtype, count in types)
    files = f"{a.stored.files} file{'s' if a.stored.files > 1 else ''}"
    return f"{size(sum(a.stored.bytes.values()))} in {files} ({listed})"


def _details(parts: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"{word}: {details}" for word, details in dict.fromkeys(parts))


_ROWS: dict[str, Callable[[Anatomy], str]] = {
    "architecture": lambda a: a.architecture,
    "layers": lambda a: str(len(a.layers)),
    "mixers": lambda a: plan(_words(a)[0]),
    "": lambda a: _details(map(_mixer, a.layers)),
    "feed-forward": lambda a: plan(_words(a)[1]),
    " ": lambda a: _details(map(_mlp, a.layers)),
    "width": lambda a: f"{a.dim:,}",
    "vocabulary": lambda a: f"{a.vocab:,}",
    "context": lambda a: f"{a.context:,}",
    "parameters": lambda a: f"{a.total.parameters:,}",
    "active": lambda a: f"{a.active.parameters:,}",
    "MTP": lambda a: f"{_heads(a)}, {many(a.mtp.parameters)}" if a.heads else "none",
    "vision": lambda a: many(a.vision.parameters) if a.vision.parameters else "none",
    "bf16": lambda a: size(a.total.bf16),
    "4-bit": lambda a: size(a.total.bits4),
    "packed as": lambda a: a.quantization or "",
    "on disk": _stored,
    "cache, fixed": lambda a: size(a.cache_fixed),
    "+ per token": lambda a: size(a.cache_per_token),
    **{
        f"at {label}": lambda a, tokens=tokens: size(a.cache_bytes(tokens))
        for label, tokens in LENGTHS.items()
    },
}
