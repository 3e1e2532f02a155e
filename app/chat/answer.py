"""The text of an answer: what is complete as Markdown, what is not and is long as plain text."""

import asyncio

from textual.containers import Vertical

from .blocks import Blocks, Kind
from .code import Block
from .lines import Holding, Tail
from .markdown import our_parser, parser, pieces
from .prose import Listing, Prose

LONG = 2000  # characters that are parsed in a thread


class Answer(Vertical, Holding):
    """Grows with its text."""

    def __init__(self):
        super().__init__(classes="answer")
        self.blocks = Blocks()
        self.parts: list[Prose | Listing] = []
        self.tail = Tail()  # comes when it is first wanted, after all parts
        self._whole = 0  # characters of which the blocks are complete
        self._sure = 0  # parts that show them; if the last is prose, it may go on
        self.rendered = 0  # characters that all parts show

    async def show(self, text: str, *, running: bool) -> None:
        """Bring the widgets up to `text`."""
        async with self.lock:
            if self.is_attached:
                await self._show(text, running)

    async def _show(self, text: str, running: bool) -> None:
        whole, ripe = self.blocks.ripe(text) if running else (len(text), len(text))
        if whole > self._whole:
            await self._take(text[self._whole : whole], whole=True)
            self._whole = self.rendered = whole
        if ripe > self.rendered:
            await self._take(text[self._whole : ripe], whole=False)
            self.rendered = ripe
        elif ripe < self.rendered and text[self.rendered - 1] != "\n":
            # What is long from now on goes on in the tail, with a line of its own.
            end = text.find("\n", self.rendered) + 1 or len(text)
            await self._take(text[self._whole : end], whole=False)
            self.rendered = end
        waits = text[self.rendered :].rstrip("\n")
        self.tail.display = bool(waits)
        if waits:
            if not self.tail.parent:
                await self.mount(self.tail)
            self.tail.follow(waits, self.rendered, code=self.blocks.kind is Kind.CODE)

    async def _take(self, text: str, *, whole: bool) -> None:
        """Show the blocks after those that are complete, or complete some more."""
        if len(text) > LONG:
            found = pieces(await asyncio.to_thread(lambda: parser().parse(text)))
        else:
            found = pieces(our_parser().parse(text))
        at = self._sure
        if at and isinstance(self.parts[at - 1], Prose):
            at -= 1
            if not found or not isinstance(found[0], list):
                found.insert(0, [])
        parts, old, gone = self.parts[:at], self.parts[at:], list[Prose | Listing]()
        for piece in found:
            kind = Prose if isinstance(piece, list) else Listing
            if not old or type(old[0]) is not kind:  # from here on something else is there
                gone, old = [*gone, *old], [kind()]
            parts.append(part := old.pop(0))
            if isinstance(part, Prose) and isinstance(piece, list):
                part.take(piece, whole=whole)
            elif isinstance(part, Listing) and isinstance(piece, Block):
                part.take(piece)
        gone += old
        fresh, self.parts = [part for part in parts if not part.parent], parts
        if whole:
            self._sure = len(parts)
        if fresh or gone:
            with self.app.batch_update():  # one picture, with all else that is to be drawn
                await self.remove_children(gone)
                await self.mount_all(fresh, before=self.tail if self.tail.parent else None)
            if self.is_attached:
                self.screen.check_idle()  # it looked while the batch was under way
