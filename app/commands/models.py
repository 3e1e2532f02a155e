"""`mlxarch models`: what the hub's cache holds, and how to be rid of it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from mlxarch.words import ago, many, size

from ..progress import bar, emit
from . import options

if TYPE_CHECKING:
    from mlxarch.convert.store import Model, Removal, Store

_HEADS = ("model", "family", "parameters", "bits", "on disk", "last used")
_LEFT = ("model", "family")  # the others are figures
_INTERVAL = 0.2  # seconds between two lines about a download


@click.group(
    invoke_without_command=True,
    short_help="List models that are here; find, fetch and remove some.",
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


@command.command(short_help="Download a model into the cache.")
@click.argument("repo")
@options.revision
@click.option("--json", "as_json", is_flag=True, help="A JSON object a line: fetch ..., done.")
def fetch(repo: str, revision: str | None, as_json: bool) -> None:
    """Download REPO into the hub's cache, with everything that a chat or a conversion needs.

    What is there already is not fetched again; what was stopped, by Ctrl-C too, goes on where it
    was. Whether it will run here is told by `mlxarch fit REPO`, before.

    \b
    Examples:
      mlxarch models fetch mlx-community/Trinity-Nano-Preview-4bit
      mlxarch models fetch Qwen/Qwen3.5-4B --revision main --json
    """
    from mlxarch.convert import download

    if as_json:
        folder = download.resolve(repo, revision=revision, watch=_told())
        emit("done", repo=repo, folder=str(folder))
        return
    with bar(f"Fetching {repo}") as advance:
        folder = download.resolve(
            repo, revision=revision, watch=lambda done, total, _: advance(done, total)
        )
    click.echo(folder)


def _told() -> Callable[[int, int, str], None]:
    """What tells programs of a download, a few times a second."""
    last = 0.0

    def tell(done: int, total: int, file: str) -> None:
        nonlocal last
        if (now := time.monotonic()) - last >= _INTERVAL or done == total:
            last = now
            emit("fetch", done=done, total=total, file=file)

    return tell


@command.command(short_help="Find models on the hub that mlxarch runs.")
@click.argument("words", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line for each repository.")
def search(words: tuple[str, ...], as_json: bool) -> None:
    """Find repositories on the hub whose names have WORDS; only those that mlxarch has a port for.

    \b
    Examples:
      mlxarch models search trinity 4bit
      mlxarch models search mlx-community/Qwen3.5 --json
    """
    from mlxarch.convert import download

    found = download.search(" ".join(words))
    if as_json:
        for one in found:
            click.echo(json.dumps(asdict(one), ensure_ascii=False))
        return
    rows = [
        (one.repo, one.family, size(one.bytes) if one.bytes else "-", f"{one.downloads:,}")
        for one in found
    ]
    heads = ("repository", "family", "on the hub", "downloads")
    for line in lines(heads, rows, left=("repository", "family")):
        click.echo(line)
    if not found:
        click.echo("No repository with such a name holds a model that mlxarch runs.", err=True)


def _what(removal: Removal) -> str:
    commits = ", ".join(commit[:7] for commit in removal.commits)
    return f"{removal.repo}{f' ({commits})' if commits else ''}, {size(removal.bytes)}"


def _table(models: tuple[Model, ...]) -> list[str]:
    """A line for each model under headings, and further ones for what is wrong with it."""
    if not models:
        return []
    head, *found = lines(_HEADS, [_row(model) for model in models], _LEFT)
    table = [head]
    for model, line in zip(models, found, strict=True):
        table += [line, *(f"    {note}" for note in _notes(model))]
    return table


def lines(heads: Sequence[str], rows: Sequence[Sequence[str]], left: Collection[str]) -> list[str]:
    """A table under its headings; figures are at the right of their columns."""
    if not rows:
        return []
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if head in left else cell.rjust(width)
            for cell, width, head in zip(row, widths, heads, strict=True)
        ).rstrip()
        for row in (heads, *rows)
    ]


def _row(model: Model) -> tuple[str, ...]:
    known = model.weights
    return (
        model.repo,
        model.family or ("-" if model.damage else "not ported"),
        many(known.parameters) if known else "-",
        f"{known.bits:.2f}".rstrip("0").rstrip(".") if known else "-",
        size(model.bytes),
        ago(model.used) if model.used else "-",
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
