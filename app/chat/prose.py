"""What is drawn of a Markdown text: stretches without code, and pieces of code."""

import asyncio
import time
from collections.abc import Sequence
from urllib.parse import unquote

from textual.content import Content
from textual.geometry import Offset
from textual.highlight import TokenType
from textual.message import Message
from textual.selection import Selection

from .code import Block
from .colours import coloured, known, lexer_of, styles_of
from .lines import BLANK, Laid, Line, Lines, Row

CODE_LINES = 40  # longer code is coloured bit by bit
TURN = 0.004  # seconds that a bit takes
PAUSE = 0.01  # seconds until the next one


class Prose(Lines):
    """All between two pieces of code; what is complete of it is laid once."""

    COMPONENT_CLASSES = {"code_inline"}

    class Linked(Message):
        """A link was clicked."""

        def __init__(self, address: str):
            super().__init__()
            self.address = address

    def __init__(self):
        super().__init__()
        self._whole: list[Laid] = []
        self._open: list[Laid] = []
        self._complete: list[Row] = []
        self._read = 0  # of what is whole, laid in them
        self._wide = 0  # their width

    def take(self, laid: Sequence[Laid], *, whole: bool) -> None:
        """Show some more: for good, or until more of it is known."""
        gap = [BLANK] if self._whole and laid else []
        if whole:
            self._whole += [*gap, *laid]
        self._open = [] if whole else [*gap, *laid]
        if self.is_attached:
            self.relay()

    def laid(self, width: int) -> Sequence[Row]:
        """Rows of what is whole, kept, and of the rest."""
        if width != self._wide:
            self._complete, self._read, self._wide = [], 0, width
        for one in self._whole[self._read :]:
            self._complete += one.rows(width)
        self._read = len(self._whole)
        return [*self._complete, *(row for one in self._open for row in one.rows(width))]

    def text_select_all(self) -> None:
        """Select what is between two blank rows: the mouse is there, and was clicked twice."""
        rows = [row.text.plain for row in self.rows(self._width)]
        y = self.app.mouse_position.y - self.content_region.y
        if 0 <= y < len(rows):
            first = next((i + 1 for i in range(y, -1, -1) if not rows[i]), 0)
            last = next((i - 1 for i in range(y, len(rows)) if not rows[i]), len(rows) - 1)
            if first <= last:
                ends = Offset(0, first), Offset(len(rows[last]), last)
                self.screen.selections = {self: Selection(*ends)}

    def action_link(self, address: str) -> None:
        """A click on a link."""
        self.post_message(self.Linked(unquote(address)))


class Listing(Lines):
    """A piece of code."""

    def __init__(self):
        super().__init__()
        self.auto_links = False
        self.code = Block("text", "")
        self.lines: Sequence[Content] = ()
        self._plain = False  # they have no colours yet

    def take(self, code: Block) -> None:
        """Show it, or more of it: what is quick is coloured at once, and the rest later."""
        if code == self.code:
            return
        self.code = code
        self.lines = [Content(line) for line in code.text.split("\n")]
        lexer = known(code.language) if len(self.lines) <= CODE_LINES else None
        self._plain = lexer is None
        if lexer:
            self.lines = [*coloured(code.text, lexer, self._styles())]
        if self.is_attached:
            self.on_mount()
            self.relay()

    def on_mount(self) -> None:
        """Now there may be a worker."""
        if self._plain:
            self.run_worker(self._colour(), exclusive=True, exit_on_error=False)

    async def _colour(self) -> None:
        """So few lines at a time that keys are heard in between."""
        code, lines, until = self.code, list[Content](), 0.0
        lexer = await asyncio.to_thread(lexer_of, code.language)
        for line in coloured(code.text, lexer, self._styles()):
            lines.append(line)
            if time.perf_counter() > until:
                await asyncio.sleep(PAUSE)
                until = time.perf_counter() + TURN
        if code == self.code:
            self.lines = lines
            self.relay()

    def _styles(self) -> dict[TokenType, str]:
        return styles_of(dark=self.app.current_theme.dark, ansi=self.app.native_ansi_color)

    def laid(self, width: int) -> Sequence[Row]:
        """Lines are broken at the edge."""
        return [row for line in self.lines for row in Line(line, solid=True).rows(width)]
