"""`mlxarch models`: what the hub's cache holds, and how to be rid of it."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from mlxarch.words import many, size

from ..progress import emit

if TYPE_CHECKING:
    from mlxarch.convert.store import Model, Removal, Store

_HEADS = ("model", "family", "parameters", "bits", "on disk", "last used")
_LEFT = ("model", "family")  # the others are figures
_AGES = (("year", 365 * 86_400), ("month", 30 * 86_400), ("day", 86_400), ("hour", 3_600))


@click.group(
    invoke_without_command=True, short_help="List fetched models and their size; remove them."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line for each model.")
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """List the models in the hub's cache, the only place where mlxarch keeps what it fetches.

    Largest first. The family is the port that runs it; parameters and bits a weight are what the
    headers of its shards tell. What is incomplete or damaged is said below its model. Nothing is
    asked of the network.

    \b
    Examples:
      mlxarch models
      mlxarch models --json
      mlxarch models remove arcee-ai/Trinity-Mini --dry-run
      mlxarch models remove arcee-ai/Trinity-Mini --revision 0123abc
    """
    if ctx.invoked_subcommand is not None:
        if as_json:
            raise click.UsageError("--json comes last: mlxarch models remove REPO --json.")
        return
    from mlxarch.convert import store

    found = store.look()
    if as_json:
        for model in found.models:
            click.echo(json.dumps(asdict(model), ensure_ascii=False))
        return
    for line in _table(found.models):
        click.echo(line)
    click.echo(_summary(found), err=True)


@command.command(short_help="Delete a model from the cache.")
@click.argument("repo")
@click.option("--revision", metavar="REV", help="Only this commit, branch or tag of it.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Show what would be freed; delete nothing.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout; needs --yes.")
def remove(repo: str, revision: str | None, yes: bool, dry_run: bool, as_json: bool) -> None:
    """Delete REPO, or one revision of it, from the hub's cache.

    It shows what would be freed and asks; without a terminal it wants --yes. Files that another
    revision needs stay, and so does everything outside of REPO's folder in the cache.

    \b
    Examples:
      mlxarch models remove arcee-ai/Trinity-Mini
      mlxarch models remove arcee-ai/Trinity-Mini --revision main --yes
      mlxarch models remove arcee-ai/Trinity-Mini --dry-run
    """
    from mlxarch.convert import store

    planned = store.plan_removal(repo, revision)
    asks = sys.stdin.isatty() and sys.stderr.isatty() and not as_json
    if not (yes or dry_run or asks):
        raise click.UsageError(f"{_what(planned)} would be deleted; say --yes, or --dry-run.")
    if not (yes or dry_run):
        click.confirm(f"Delete {_what(planned)}?", abort=True, err=True)
    if not dry_run:
        store.remove(planned)
    if as_json:
        emit(
            "plan" if dry_run else "done",
            repo=planned.repo,
            commits=planned.commits,
            bytes_freed=planned.bytes,
        )
    else:
        click.echo(f"{'Would delete' if dry_run else 'Deleted'} {_what(planned)}.")


def _what(removal: Removal) -> str:
    commits = ", ".join(commit[:7] for commit in removal.commits)
    return f"{removal.repo}{f' ({commits})' if commits else ''}, {size(removal.bytes)}"


def _table(models: tuple[Model, ...]) -> list[str]:
    """A line for each model under headings, and further ones for what is wrong with it."""
    if not models:
        return []
    rows = [_HEADS, *map(_row, models)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if head in _LEFT else cell.rjust(width)
            for cell, width, head in zip(row, widths, _HEADS, strict=True)
        )
        for row in rows
    ]
    table = lines[:1]
    for model, line in zip(models, lines[1:], strict=True):
        table += [line, *(f"    {note}" for note in _notes(model))]
    return table


def _row(model: Model) -> tuple[str, ...]:
    known = model.weights
    return (
        model.repo,
        model.family or ("-" if model.damage else "not ported"),
        many(known.parameters) if known else "-",
        f"{known.bits:.2f}".rstrip("0").rstrip(".") if known else "-",
        size(model.bytes),
        _ago(model.used) if model.used else "-",
    )


def _notes(model: Model) -> list[str]:
    notes = []
    if model.damage:
        notes.append(f"damaged: {model.damage}")
    if model.missing == ("weights",):
        notes.append(
            "no weights are here" if not model.unfinished else "incomplete: no weights yet"
        )
    elif model.missing:
        count = len(model.missing)
        notes.append(f"incomplete: {count} shard{' is' if count == 1 else 's are'} missing")
    if model.unfinished:
        notes.append(f"{size(model.unfinished)} of a download that was cut short")
    if [r.refs for r in model.revisions] not in ([("main",)], []):
        listed = ", ".join(" ".join((r.commit[:7], *r.refs)) for r in model.revisions)
        notes.append(f"revisions: {listed}")
    return notes


def _ago(then: float) -> str:
    """How long ago, in the largest unit that fits: `3 days ago`."""
    passed = max(0.0, time.time() - then)
    for unit, seconds in _AGES:
        if count := int(passed // seconds):
            return f"{count} {unit}{'' if count == 1 else 's'} ago"
    return "just now"


def _summary(store: Store) -> str:
    if not store.models:
        text = f"There are no models in {store.folder}."
    else:
        count = len(store.models)
        total = size(sum(model.bytes for model in store.models))
        text = f"{count} model{'' if count == 1 else 's'}, {total}, in {store.folder}."
    if store.others:
        listed = ", ".join(f"{size(count)} of {kind}" for kind, count in store.others.items())
        text += f" Beside them: {listed}."
    return text
