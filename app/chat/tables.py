"""A table in rows of text."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from textual.content import Content

from .lines import Row

RULE = "$foreground 25%"
LEAST = 3  # cells of a column that is broken


@dataclass(frozen=True)
class Cells:
    """What is in a table."""

    head: Sequence[Content]
    body: Sequence[Sequence[Content]]
    sides: Sequence[str]  # of each column: "left", "right", "center" or ""

    def rows(self, width: int) -> list[Row]:
        """See `Laid`."""
        return [Row(row) for row in table(self, width)]


def table(cells: Cells, width: int) -> list[Content]:
    """Its rows; where `width` cells are not enough, the widest columns are broken."""
    columns = zip_longest(cells.head, *cells.body, fillvalue=Content())
    natural = [max(cell.cell_length for cell in column) for column in columns]
    widths = fitted(natural, width - 3 * (len(natural) - 1) - 2)
    head = [cell.stylize("bold $primary") for cell in cells.head]
    line = Content.styled("─" + "─┼─".join("─" * size for size in widths) + "─", RULE)
    rows = [*_row(head, widths, cells.sides), line]
    broken = widths != natural
    for index, row in enumerate(cells.body):
        if broken and index:
            rows.append(line)
        rows += _row(row, widths, cells.sides)
    return rows


def fitted(natural: Sequence[int], room: int) -> list[int]:
    """Widths of columns that together take `room` cells at most: the widest ones are cut."""
    widths = [max(size, 1) for size in natural]
    while sum(widths) > room and max(widths) > LEAST:
        widest = max(widths)
        second = max((size for size in widths if size < widest), default=LEAST)
        many = widths.count(widest)
        over = -(-(sum(widths) - room) // many)
        cut = max(widest - over, second, LEAST)
        widths = [min(size, cut) for size in widths]
    return widths


def _row(
    cells: Sequence[Content], widths: Sequence[int], sides: Sequence[str]
) -> Iterator[Content]:
    parts = [
        [cell] if cell.cell_length <= size else cell.wrap(size)
        for cell, size in zip(cells, widths, strict=False)
    ]
    bar = Content.styled(" │ ", RULE)
    for line in zip_longest(*parts, fillvalue=Content()):
        padded = [
            _padded(cell, size, side) for cell, size, side in zip(line, widths, sides, strict=False)
        ]
        yield Content.assemble(" ", bar.join(padded))


def _padded(cell: Content, size: int, side: str) -> Content:
    spare = max(size - cell.cell_length, 0)
    left = spare if side == "right" else spare // 2 if side == "center" else 0
    return cell.pad(left, spare - left)
