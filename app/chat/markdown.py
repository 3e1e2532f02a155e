"""Markdown in which a list, a table or a piece of code is one widget, however long it is.

Textual makes some four widgets of each item of a list and one of each cell of a table, so that a
hundred of them take a second.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore
from markdown_it.token import Token
from textual.content import Content
from textual.widgets import Markdown
from textual.widgets._markdown import MarkdownParagraph
from textual.widgets.markdown import MarkdownBlock, MarkdownFence

from .lines import Growing, Holding, Line, Lines
from .tables import Cells, table

GATHERED = {"bullet_list_open": "list", "ordered_list_open": "list", "table_open": "table"}
CODE_LINES = 40  # longer code is coloured in a thread
BULLETS = "•▪‣◦"
QUOTE = "▌ "


def parser() -> MarkdownIt:
    """GitHub's Markdown, but HTML is text and the end of a line is the end of a line."""
    markdown = MarkdownIt("gfm-like", {"html": False})
    markdown.core.ruler.push("breaks", _keep_breaks)
    markdown.core.ruler.push("whole", _gather)
    return markdown


def _keep_breaks(state: StateCore) -> None:
    for token in state.tokens:
        for child in token.children or ():
            if child.type == "softbreak":
                child.type = "hardbreak"


def _gather(state: StateCore) -> None:
    """Make one token of each list and table, with what is in it as children."""
    tokens, state.tokens = iter(state.tokens), []
    for token in tokens:
        if kind := GATHERED.get(token.type):
            inside = [token, *_until_closed(tokens, token.level)]
            token = Token(kind, "", 0, map=token.map, level=token.level, children=inside)
        elif token.type in ("fence", "code_block"):
            token.type = "code"
        state.tokens.append(token)


def _until_closed(tokens: Iterator[Token], level: int) -> Iterator[Token]:
    for token in tokens:
        yield token
        if token.level == level and token.nesting == -1:
            return


class Paragraph(MarkdownParagraph, Growing):
    """A paragraph: only when it has another line, something else moves."""

    def set_content(self, content: Content) -> None:
        """Show another text."""
        self._content = content
        width, height = self.size
        # A new one is laid out when it is mounted, and would ask for it again once it runs.
        grows = not width or content.get_height({}, width) != height
        self.update(content, layout=self.is_attached and grows)


class Document(Markdown, Holding):
    """Some Markdown."""

    BLOCKS = {**Markdown.BLOCKS, "paragraph_open": Paragraph}

    def __init__(self):
        super().__init__("", parser_factory=parser, open_links=False)

    def unhandled_token(self, token: Token) -> MarkdownBlock | None:
        """The widget of what `_gather` made."""
        kinds = {"list": ListBlock, "table": TableBlock, "code": CodeBlock}
        kind = kinds.get(token.type)
        return kind(self, token) if kind else None


class _Block(MarkdownBlock, Lines):
    """A block of lines; it takes the place of one of its kind without being mounted again."""

    def __init__(self, markdown: Markdown, token: Token):
        super().__init__(markdown, token)
        self.read(token)

    def read(self, token: Token) -> None:
        """Take what the token says."""

    async def _update_from_block(self, block: MarkdownBlock) -> None:
        if type(block) is type(self):
            self._token = block._token
            self.read(block._token)
            self.relay()
        else:
            await super()._update_from_block(block)


class CodeBlock(_Block):
    """A piece of code."""

    lines: Sequence[Content] = ()

    def read(self, token: Token) -> None:
        """Colour what is short at once, and the rest later."""
        self.code = token.content.rstrip("\n")
        language = token.info.split()[:1]
        self.language = language[0] if language else "text"
        self.auto_links = False
        self.lines = [Content(line) for line in self.code.split("\n")]
        if len(self.lines) <= CODE_LINES:
            self.lines = self._coloured(self.code)
        elif self.is_mounted:
            self._colour_later()

    def on_mount(self) -> None:
        """Now there may be a thread."""
        if len(self.lines) > CODE_LINES:
            self._colour_later()

    def _colour_later(self) -> None:
        self.run_worker(self._colour, thread=True, exclusive=True, exit_on_error=False)

    def _colour(self) -> None:
        code = self.code
        lines = self._coloured(code)
        self.app.call_from_thread(self._show, code, lines)

    def _show(self, code: str, lines: Sequence[Content]) -> None:
        if code == self.code:
            self.lines = lines
            self.relay()

    def _coloured(self, code: str) -> Sequence[Content]:
        app = self.app
        dark, ansi = app.current_theme.dark, app.native_ansi_color
        content = MarkdownFence.highlight(code, self.language, ansi=ansi, dark=dark)
        return content.split("\n", allow_blank=True)

    def laid(self, width: int) -> Sequence[Content]:
        """Lines are broken at the edge."""
        return [row for line in self.lines for row in Line(line, solid=True).rows(width)]


class TableBlock(_Block):
    """A table: as wide as it has to be, or its widest columns are broken."""

    def read(self, token: Token) -> None:
        """Take the cells."""
        self.head: list[Content] = []
        self.body: list[list[Content]] = []
        self.sides: list[str] = []
        for part in token.children or ():
            if part.type == "tr_open":
                self.body.append([])
            elif part.type == "th_open":
                self.sides.append(str(part.attrs.get("style", "")).removeprefix("text-align:"))
            elif part.type == "inline":
                self.body[-1].append(self._token_to_content(part))
        self.head = self.body.pop(0)

    def laid(self, width: int) -> Sequence[Content]:
        """Columns for this width."""
        return table(Cells(self.head, self.body, self.sides), width)


class ListBlock(_Block):
    """A list with all that is in it."""

    def read(self, token: Token) -> None:
        """Take the lines."""
        self.lines = list(_Walk(self).lines(token.children or []))

    def laid(self, width: int) -> Sequence[Content]:
        """Lines are broken under their own beginning."""
        return [row for line in self.lines for row in line.rows(width)]


class _Walk:
    """Goes through the tokens of a list.

    `first` is what comes before the next line, bullets included; `then` before those after it.
    """

    def __init__(self, block: ListBlock):
        self.block = block
        self.first: list[str] = []
        self.then: list[str] = []
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
                self._push(self._mark())
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
                cells.append(self.block._token_to_content(token))
            elif kind == "inline":
                for line in self.block._token_to_content(token).split("\n", allow_blank=True):
                    yield self._line(line)
            elif kind in ("fence", "code_block"):
                for text in token.content.rstrip("\n").split("\n"):
                    yield self._line(Content.styled(text, ".code_inline"), solid=True)
            elif kind == "hr":
                yield self._line(Content("─" * 8))

    def _line(self, body: Content, **more: Any) -> Line:
        lead, hang = Content.styled("".join(self.first), "$primary"), "".join(self.then)
        self.first = self.then.copy()
        return Line(body, lead, hang, **more)

    def _push(self, first: str, then: str = "") -> None:
        self.first.append(first)
        self.then.append(then or " " * len(first))

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
