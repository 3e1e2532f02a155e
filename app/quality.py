"""What quantizing costs, measured and shown: of one output, or of several candidates."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlxarch.words import size

from .progress import bar, emit

if TYPE_CHECKING:
    from mlxarch.convert.plan import Plan
    from mlxarch.quantize.quality import Text

# The columns of a comparison: a head, its width, and what is under it.
_COLUMNS = (
    ("bits per weight", 15),
    ("size", 8),
    ("perplexity ratio", 16),
    ("mean KL", 8),
    ("median", 8),
    ("99%", 8),
    ("top-1", 6),
    ("seconds", 7),
)


def measure(plan: Plan, out: Path, text: Text, as_json: bool) -> None:
    """Measure a plan's output on a text; the report is written into it and shown on stdout."""
    from mlxarch.convert import measure

    with bar("Measuring", bytes=False) as advance:
        found = measure.written(plan, out, text, advance)
    if as_json:
        emit("quality", **found)
        return
    rows = {
        "perplexity ratio": f"{found['perplexity_ratio']:.4f} ± "
        f"{found['perplexity_ratio_standard_error']:.4f} "
        f"({found['original_perplexity']:.4g} to {found['perplexity']:.4g})",
        "mean KL": f"{found['mean_kl']:.4f} ± {found['mean_kl_standard_error']:.4f} nats "
        f"({found['tokens']} tokens of {found['text']})",
        "median KL": f"{found['median_kl']:.4f} nats",
        "99% KL": f"{found['kl_99']:.4f} nats",
        "top-1 agreement": f"{found['top1_agreement']:.1%} ± "
        f"{found['top1_agreement_standard_error']:.1%}",
        "bits per weight": f"{found['bits_per_weight']:.2f}",
        "size": f"{size(found['original_bytes'])} to {size(found['bytes'])}",
    }
    for label, value in rows.items():
        click.echo(f"{label:<18}{value}")
    click.echo(f"The report is in quality.json, quality.svg and README.md of {out}.", err=True)


def compare(plans: Mapping[str, Plan], out: Path, text: Path | None, as_json: bool) -> None:
    """Measure what several plans for one source would write, and show them in one table.

    Raises: MlxarchError if there is something else where the comparison is to lie; FormatError if
        the text is too short.
    """
    from mlxarch.convert import measure

    first = next(iter(plans.values()))
    measure.check_place(first, out)
    read = measure.read_text(first, text)
    found: dict[str, dict[str, Any]] = {}
    if not as_json:
        _echo_heads(plans)
    for number, (name, plan) in enumerate(plans.items(), start=1):
        started = time.monotonic()
        with bar(f"Measuring {name} ({number} of {len(plans)})", bytes=False) as advance:
            found[name] = measure.unwritten(plan, read, advance)
        seconds = time.monotonic() - started
        if as_json:
            emit("candidate", candidate=name, **found[name], seconds=seconds)
        else:
            _echo_row(name, plans, _cells(found[name], seconds))
    measure.store(out, found)
    if as_json:
        emit("done", out=str(out))
        return
    click.echo(
        f"Divergences are in nats; {read.tokens.size} tokens of {read.name} were read. All figures "
        f"are in {out / measure.COMPARISON}, a picture in {measure.COMPARISON_PICTURE}.",
        err=True,
    )


def show(plans: Mapping[str, Plan], as_json: bool) -> None:
    """What several plans for one source would take, for a dry run."""
    if not as_json:
        _echo_heads(plans, 2)
    for name, plan in plans.items():
        bits = plan.bits_per_weight
        if as_json:
            emit("candidate", candidate=name, bytes=plan.bytes_out, bits_per_weight=bits)
        else:
            _echo_row(name, plans, (f"{bits:.2f}", size(plan.bytes_out)))


def _cells(found: Mapping[str, Any], seconds: float) -> tuple[str, ...]:
    error = found["perplexity_ratio_standard_error"]
    return (
        f"{found['bits_per_weight']:.2f}",
        size(found["bytes"]),
        f"{found['perplexity_ratio']:.4f} ± {error:.4f}",
        f"{found['mean_kl']:.4f}",
        f"{found['median_kl']:.4f}",
        f"{found['kl_99']:.4f}",
        f"{found['top1_agreement']:.1%}",
        f"{seconds:.1f}",
    )


def _echo_heads(plans: Mapping[str, Plan], count: int = len(_COLUMNS)) -> None:
    _echo_row("candidate", plans, tuple(head for head, _ in _COLUMNS[:count]))


def _echo_row(name: str, plans: Mapping[str, Plan], cells: tuple[str, ...]) -> None:
    first = max(map(len, ("candidate", *plans)))
    rest = (f"{cell:>{width}}" for cell, (_, width) in zip(cells, _COLUMNS, strict=False))
    click.echo("  ".join((f"{name:<{first}}", *rest)))
