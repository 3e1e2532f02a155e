"""How a long job is shown: a bar for people, a JSON object a line for programs."""

import json
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import click


def emit(event: str, **fields: Any) -> None:
    """One event on stdout, as a line of JSON."""
    click.echo(json.dumps({"event": event, **fields}, ensure_ascii=False))


@contextmanager
def bar(what: str, *, bytes: bool = True) -> Generator[Callable[..., None], None, None]:
    """A bar on stderr with rate and time left, while the block runs; none if nobody sees it.

    Yields what to call with how much is done, how much there is and, while it is something else,
    what that is.
    """
    if not sys.stderr.isatty():
        yield lambda done, total, now=what: None
        return
    from rich import progress as rich
    from rich.console import Console
    from rich.table import Column

    kinds = [rich.DownloadColumn, rich.TransferSpeedColumn] if bytes else [rich.MofNCompleteColumn]
    # A name that is long gives way, then the bar: figures stay on one line.
    name = Column(no_wrap=True, overflow="ellipsis", max_width=36)
    figures = [kind(table_column=Column(no_wrap=True)) for kind in kinds]
    with rich.Progress(
        rich.TextColumn("{task.description}", table_column=name),
        rich.BarColumn(),
        *figures,
        rich.TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,
    ) as shown:
        task = shown.add_task(what, total=None)
        yield lambda done, total, now=what: shown.update(
            task, completed=done, total=total, description=now
        )
