"""`mlxarch history`: what was said before, to list, search, read, export and delete."""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..progress import emit

if TYPE_CHECKING:
    from ..history import History, Summary


class _Searches(click.Group):
    """A group whose other words are looked for."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        first = next((word for word in args if not word.startswith("-")), None)
        if first not in self.commands and not {"-h", "--help"} & set(args):
            args = ["list", *args]
        return super().parse_args(ctx, args)


_id = click.argument("session", metavar="ID")
_json = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")


@click.group(
    cls=_Searches,
    short_help="List, search, read, export and delete conversations.",
    subcommand_metavar="[QUERY... | COMMAND ...]",
)
def command() -> None:
    """List conversations, the last one first, or search them for all words of QUERY.

    The last word may be the beginning of one; "words in quotes" belong together. An ID may be
    shortened as long as no other one begins so. `mlxarch chat --resume ID` goes on with a
    conversation, `--continue` with the last one.

    \b
    Examples:
      mlxarch history
      mlxarch history convert 4 bits
      mlxarch history convert --limit 5 --json
      mlxarch history show k7m2
      mlxarch history export k7m2 --format html -o chat.html
      mlxarch history export --all -o backup --format json
    """


@command.command("list", short_help="What `mlxarch history` does without a command.")
@click.argument("query", nargs=-1)
@click.option(
    "--limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many."
)
@_json
def list_(query: tuple[str, ...], limit: int, as_json: bool) -> None:
    """List conversations, or those that hold all words of QUERY, best first."""
    from ..history import reading

    text = " ".join(query)
    if not _kept():
        _nothing()
        return
    with _open() as history:
        found = history.sessions(text, limit + 1)
    shown = found[:limit]
    if as_json:
        for summary in shown:
            click.echo(json.dumps(_described(summary), ensure_ascii=False))
        return
    wide = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for row in reading.table(shown, wide):
        click.echo(row)
    if not found and not text:
        _nothing()
    elif not found:
        click.echo(f"No conversation holds all of: {text}", err=True)
    elif len(found) > limit:
        click.echo(f"There are more; --limit {2 * limit} shows some of them.", err=True)


@command.command(short_help="Print a conversation.")
@_id
@_json
def show(session: str, as_json: bool) -> None:
    """Print the conversation ID as it was read last; --json has all its branches."""
    from ..history import export, reading

    with _open() as history:
        found = history.load(history.find(session))
    if as_json:
        click.echo(json.dumps(export.tree(found), ensure_ascii=False))
        return
    for row in reading.transcript(found):
        click.echo(row)


@command.command(short_help="Write conversations as Markdown, HTML or JSON.")
@click.argument("session", metavar="[ID]", required=False)
@click.option("--all", "everything", is_flag=True, help="Each conversation into a file of its own.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["md", "html", "json"]),
    help="JSON has all branches, the others the one that was read last.  "
    "[default: by the ending of FILE, else md]",
)
@click.option(
    "-o",
    "--output",
    "out",
    metavar="FILE",
    type=click.Path(path_type=Path, allow_dash=True),
    help="Where to; with --all a folder. What is there already is replaced.  [default: stdout]",
)
def export(session: str | None, everything: bool, form: str | None, out: Path | None) -> None:
    """Write the conversation ID, or all of them, for other programs and for people.

    A page of HTML needs nothing else: no script, nothing from the network, pictures are within.
    """
    from ..history.export import FORMATS, file_name
    from ..history.file import in_words

    if everything == bool(session):
        raise click.UsageError("Say which: an ID, or --all.")
    if everything and (out is None or str(out) == "-"):
        raise click.UsageError("--all writes many files; say into which folder: -o FOLDER.")
    form = form or _form(out) or "md"
    with _open() as history:
        if not everything:
            assert session is not None
            text = FORMATS[form](history.load(history.find(session)), history.images)
            if out is None or str(out) == "-":
                click.echo(text, nl=False)
            else:
                _write(out, text)
            return
        assert out is not None
        with in_words(out):
            out.mkdir(parents=True, exist_ok=True)
        summaries = history.sessions(limit=sys.maxsize)
        for summary in summaries:
            found = history.load(summary.id)
            _write(out / file_name(found, form), FORMATS[form](found, history.images))
    count = len(summaries)
    click.echo(f"{count} conversation{'' if count == 1 else 's'} in {out}.", err=True)


@command.command(short_help="Give a conversation a title.")
@_id
@click.argument("title", nargs=-1, required=True)
@_json
def rename(session: str, title: tuple[str, ...], as_json: bool) -> None:
    """Give the conversation ID a TITLE; '' makes it that of its first question again."""
    from ..history.export import line

    with _open() as history:
        session = history.find(session)
        history.rename(session, " ".join(title))
        found = history.load(session)
        _check(history)
    if as_json:
        emit("done", id=session, title=found.title)
    else:
        click.echo(f"{session} is now called: {line(found.title)}")


@command.command(short_help="Delete a conversation.")
@_id
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@_json
def delete(session: str, yes: bool, as_json: bool) -> None:
    """Delete the conversation ID with all its branches; its words leave the file, too.

    What another conversation shares of it, because one was forked from the other, stays there.
    It asks; without a terminal it wants --yes.
    """
    from ..history import HistoryError
    from ..history.export import line
    from ..history.held import Held

    with _open() as history:
        found = history.load(history.find(session))
        if found.id in Held(history.path).elsewhere():
            raise HistoryError(f"{found.id} is open in a chat; there, /delete deletes it.")
        what = f"{found.id} ({line(found.title)}, {_count(len(found.messages))})"
        if not yes and (as_json or not (sys.stdin.isatty() and sys.stderr.isatty())):
            raise click.UsageError(f"{what} would be deleted; say --yes.")
        if not yes:
            click.confirm(f"Delete {what}?", abort=True, err=True)
        history.delete(found.id)
        _check(history)
    if as_json:
        emit("done", id=found.id, messages=len(found.messages))
    else:
        click.echo(f"Deleted {what}.")


def _open() -> History:
    """The person's history; a copy of it where it can be read only.

    Raises: HistoryError if there is none.
    """
    from ..history import Damaged, History, HistoryError
    from ..history.file import place

    if not _kept():
        raise HistoryError(f"There is no conversation in {place()} so far.")
    try:
        return History.open()
    except Damaged:
        raise
    except HistoryError as error:
        try:
            history = History.nowhere(str(error), place())
        except HistoryError:
            raise error from None
        click.echo(f"{error} What it holds can be read, but not changed.", err=True)
        return history


def _kept() -> bool:
    """Whether there is a history.

    Raises: HistoryError if one may not look.
    """
    from ..history.file import in_words, place

    with in_words(path := place()):
        try:
            path.stat()
        except FileNotFoundError:
            return False
        return True


def _nothing() -> None:
    from ..history.file import place

    click.echo(f"Nothing was said so far; conversations are kept in {place()}.", err=True)


def _check(history: History) -> None:
    """Raises: HistoryError if what was asked for could not be written."""
    from ..history import HistoryError

    if not history.flush() or history.trouble:
        raise HistoryError(history.trouble or "Not saved: another program holds the history.")


def _form(out: Path | None) -> str | None:
    from ..history.export import FORMATS

    ending = out.suffix.lower().lstrip(".") if out else ""
    return ending if ending in FORMATS else None


def _write(file: Path, text: str) -> None:
    from ..history.file import in_words

    with in_words(file):
        file.write_text(text, encoding="utf-8")


def _described(summary: Summary) -> dict[str, object]:
    from ..history import FOUND
    from ..history.export import moment

    found = asdict(summary) | {
        "created": moment(summary.created),
        "updated": moment(summary.updated),
    }
    found["snippet"] = re.sub(f"[{''.join(FOUND)}]", "", summary.snippet)
    return found


def _count(messages: int) -> str:
    return f"{messages} message{'' if messages == 1 else 's'}"
