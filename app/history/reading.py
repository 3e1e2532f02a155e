"""Conversations as lines of a terminal."""

import re

import click
from rich.cells import cell_len, set_cell_size

from mlxarch.words import ago

from ..attachment import told
from ..chat.transcript import plain
from .export import about, calls, line, remarks, speaker
from .tree import FOUND, Conversation, Summary

_HEADS = ("id", "title", "model", "messages", "when")
_NARROWEST = 16  # columns of a title


def table(found: list[Summary], columns: int | None) -> list[str]:
    """A line for each conversation under headings, and what was found in it below.

    Args:
        columns: How wide it may be, at the cost of titles; None: as wide as it is.
    """
    if not found:
        return []
    rows = [_HEADS, *map(_row, found)]
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    if columns is not None:
        over = sum(widths) + 2 * (len(widths) - 1) - columns
        widths[1] = max(widths[1] - max(over, 0), _NARROWEST)
    table = []
    for row, summary in zip(rows, [None, *found], strict=True):
        cells = []
        for head, cell, width in zip(_HEADS, row, widths, strict=True):
            if cell_len(cell) > width:
                cell = set_cell_size(cell, width - 1) + "…"
            space = " " * (width - cell_len(cell))
            cells.append(space + cell if head == "messages" else cell + space)
        table.append("  ".join(cells).rstrip())
        if summary and summary.snippet:
            table.append(f"    {_marked(summary.snippet)}")
    return table


def _row(summary: Summary) -> tuple[str, ...]:
    count = f"{summary.messages:,}"
    return summary.id, line(summary.title), line(summary.model), count, ago(summary.updated)


def _marked(snippet: str) -> str:
    """What was found, with its words in bold; click takes that off where it cannot be seen."""
    bold = click.style("x", bold=True).split("x")
    parts = re.split(f"([{''.join(FOUND)}])", snippet)
    return "".join(bold[FOUND.index(part)] if part in FOUND else plain(part) for part in parts)


def transcript(found: Conversation, since: float = 0.0) -> list[str]:
    """The branch that is shown, as lines of a terminal.

    Args:
        since: Leave out what was said before, and all if that is all; seconds since the epoch.
    """
    said = [message for message in found.thread() if message.created >= since]
    if since and not said:
        return []

    def block(head: str, text: str) -> list[str]:
        lines = plain(text).strip("\n").split("\n")
        return [click.style(head, bold=True), *(f"  {row}".rstrip() for row in lines), ""]

    out = [click.style(line(found.title), bold=True), about(found), ""]
    if found.system:
        out += block("System prompt", found.system)
    for message in said:
        if message.thinking:
            out += block(f"{speaker(message)} thought", message.thinking)
        texts = [told(message.content)] if message.content.strip() else []
        texts += [f"calls {call.get('name')} {call.get('arguments')}" for call in calls(message)]
        out += block(speaker(message), "\n\n".join(texts))
        if figures := remarks(found, message):
            out[-1:] = [click.style(f"  {figures}", dim=True), ""]
    if found.draft:
        out += block("Not sent yet", found.draft)
    return out[:-1]
