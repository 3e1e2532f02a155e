"""What a Markdown text is made of: pieces of code, and between them lines, tables and rules.

They are laid in rows and drawn by a widget for each stretch without code. Textual makes a widget of
each paragraph, some four of each item of a list and one of each cell of a table, so that a hundred
of them take a second.
"""

import re
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import islice
from typing import NamedTuple

from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore
from markdown_it.token import Token
from textual.content import Content, Span
from textual.style import Style

from .code import Block
from .lines import BLANK, Laid, Line, Row
from .tables import Cells

BULLETS = "•▪‣◦"
QUOTE = Content.styled("▌ ", "$primary 40%")
HEADING = "bold $primary"
CODE = ".code_inline"  # a component class of the widget
STYLES = {"em_open": "italic", "strong_open": "bold", "s_open": "strike"}

Piece = Block | list[Laid]


class Rule(NamedTuple):
    """A line across."""

    def rows(self, width: int) -> list[Row]:
        """See `Laid`."""
        return [Row(Content.styled("─" * width, "$secondary"))]


def parser() -> MarkdownIt:
    """GitHub's Markdown, but HTML is text and the end of a line is the end of a line."""
    markdown = MarkdownIt("gfm-like", {"html": False})
    markdown.core.ruler.push("breaks", _keep_breaks)
    return markdown


our_parser = cache(parser)  # that of the app's own thread


def _keep_breaks(state: StateCore) -> None:
    for token in state.tokens:
        for child in token.children or ():
            if child.type == "softbreak":
                child.type = "hardbreak"


def pieces(tokens: Sequence[Token]) -> list[Piece]:
    """What is drawn by a widget each, from top to bottom."""
    found: list[Piece] = []
    for block in _blocks(iter(tokens)):
        if block[0].type in ("fence", "code_block"):
            language = block[0].info.split()[:1]
            found.append(Block(language[0] if language else "text", block[0].content.rstrip("\n")))
        elif laid := _laid(block):
            if found and isinstance(found[-1], list):
                found[-1] += [BLANK, *laid]
            else:
                found.append(laid)
    return found


def _blocks(tokens: Iterator[Token]) -> Iterator[list[Token]]:
    """The tokens of each block that is in no other."""
    for token in tokens:
        yield [token, *_until_closed(tokens)] if token.nesting == 1 else [token]


def _until_closed(tokens: Iterator[Token]) -> Iterator[Token]:
    for token in tokens:
        yield token
        if token.level == 0 and token.nesting == -1:
            return


def _laid(block: Sequence[Token]) -> list[Laid]:
    kind = block[0].type
    if kind == "table_open":
        return [_table(block)]
    return [Rule()] if kind == "hr" else list(_Walk().lines(block))


def _table(tokens: Sequence[Token]) -> Cells:
    rows: list[list[Content]] = []
    sides: list[str] = []
    for token in tokens:
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "th_open":
            sides.append(str(token.attrs.get("style", "")).removeprefix("text-align:"))
        elif token.type == "inline":
            rows[-1].append(said(token))
    return Cells(rows[0], rows[1:], sides)


def said(inline: Token) -> Content:
    """A text with its emphasis, code and links."""
    text, spans, opened = "", list[Span](), list[tuple[int, Style | str]]()
    for token in inline.children or ():
        kind, start = token.type, len(text)
        if kind == "text":
            text += re.sub(r"\s+", " ", token.content)
        elif kind == "hardbreak":
            text += "\n"
        elif kind == "code_inline":
            text += token.content
            spans.append(Span(start, len(text), CODE))
        elif kind == "image":
            text += f"🖼  {token.content}"
            spans.append(Span(start, len(text), _link(token.attrs.get("src"))))
        elif kind == "link_open":
            opened.append((start, _link(token.attrs.get("href"))))
        elif kind in STYLES:
            opened.append((start, STYLES[kind]))
        elif token.nesting == -1:
            start, style = opened.pop()
            spans.append(Span(start, len(text), style))
    return Content(text, spans)


def _link(address: str | float | None) -> Style:
    """What a click on it does is for the widget to know."""
    return Style.from_meta({"@click": f"link({address or ''!r})"})


class _Walk:
    """Goes through the tokens of a block.

    `first` is what comes before the next line, bullets included; `then` before those after it.
    """

    def __init__(self):
        self.first: list[Content] = []
        self.then: list[Content] = []
        self.numbers: list[tuple[int, int] | None] = []  # next, and cells; None: a bullet

    def lines(self, tokens: Sequence[Token]) -> Iterator[Line]:
        """What is to be shown."""
        cells: list[Content] = []
        for index, token in enumerate(tokens):
            kind = token.type
            if kind == "bullet_list_open":
                self.numbers.append(None)
            elif kind == "ordered_list_open":
                self.numbers.append(self._count(token, islice(tokens, index + 1, None)))
            elif kind == "list_item_open":
                mark = self._mark()
                self._push(Content.styled(mark, "$primary"), Content(" " * len(mark)))
            elif kind == "blockquote_open":
                self._push(QUOTE, QUOTE)
            elif kind in ("list_item_close", "blockquote_close"):
                if self.first != self.then:  # it was empty
                    yield self._line(Content())
                self.first.pop()
                self.then.pop()
            elif kind in ("bullet_list_close", "ordered_list_close"):
                self.numbers.pop()
            elif kind == "tr_open":
                cells = []
            elif kind == "tr_close":
                yield self._line(Content(" │ ").join(cells))
            elif kind == "inline" and tokens[index - 1].type in ("td_open", "th_open"):
                cells.append(said(token))
            elif kind == "inline":
                text = said(token)
                if tokens[index - 1].type == "heading_open":
                    text = text.stylize_before(HEADING)
                for line in text.split("\n", allow_blank=True):
                    yield self._line(line)
            elif kind in ("fence", "code_block"):
                for text in token.content.rstrip("\n").split("\n"):
                    yield self._line(Content.styled(text, CODE), solid=True)
            elif kind == "hr":
                yield self._line(Content("─" * 8))

    def _line(self, body: Content, *, solid: bool = False) -> Line:
        lead, hang = Content("").join(self.first), Content("").join(self.then)
        self.first = self.then.copy()
        return Line(body, lead, hang, solid)

    def _push(self, first: Content, then: Content) -> None:
        self.first.append(first)
        self.then.append(then)

    def _mark(self) -> str:
        """What the next item begins with."""
        if (number := self.numbers[-1]) is None:
            return f"{BULLETS[(self.numbers.count(None) - 1) % len(BULLETS)]} "
        following, size = number
        self.numbers[-1] = following + 1, size
        return f"{following}. ".rjust(size)

    def _count(self, opening: Token, after: Iterator[Token]) -> tuple[int, int]:
        """The first number of a list, and the cells that its last one takes."""
        items = 0
        for token in after:
            if token.level <= opening.level:
                break
            items += token.type == "list_item_open" and token.level == opening.level + 1
        start = int(opening.attrs.get("start", 1))
        return start, len(f"{start + items - 1}. ") + 1
