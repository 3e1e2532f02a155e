"""The text of an answer: what is complete as Markdown, what is not and is long as plain text."""

from textual.containers import Vertical

from .blocks import Blocks, Kind
from .lines import Holding, Tail
from .markdown import Document

LONG = 2000  # characters that are parsed in a thread, and in a document of their own


class Answer(Vertical, Holding):
    """Grows with its text.

    A document is rendered again from its last block on, so one that is long, or whose last block
    is, is left as it is and another one begun.
    """

    def __init__(self):
        super().__init__(classes="answer")
        self.blocks, self.rendered = Blocks(), 0
        self.tail = Tail()  # comes when it is first wanted, after all documents
        self.document: Document | None = None  # the last one, while it may grow

    async def show(self, text: str, *, running: bool) -> None:
        """Bring the widgets up to `text`."""
        if not self.is_attached:
            return
        closed, ripe = self.blocks.ripe(text) if running else (len(text), len(text))
        if closed > self.rendered:
            await self._add(text[self.rendered : closed], closed=True)
            self.rendered = closed
        if ripe > self.rendered:
            await self._add(text[self.rendered : ripe], closed=False)
            self.rendered = ripe
        elif ripe < self.rendered and text[self.rendered - 1] != "\n":
            # What is long from now on goes on in the tail, with a line of its own.
            end = text.find("\n", self.rendered) + 1 or len(text)
            await self._add(text[self.rendered : end], closed=False)
            self.rendered = end
        waits = text[self.rendered :].rstrip("\n")
        self.tail.display = bool(waits)
        if waits:
            if not self.tail.parent:
                await self.mount(self.tail)
            self.tail.follow(waits, self.rendered, code=self.blocks.kind is Kind.CODE)

    async def _add(self, text: str, *, closed: bool) -> None:
        document = self.document
        if document is None or len(text) > LONG:
            document = Document()
            await self.mount(document, before=self.tail if self.tail.parent else None)
        if not document.is_mounted:  # the chat is being closed
            return
        if len(text) > LONG:
            with self.app.batch_update():
                await document.update(text)
                self.tail.display = False
        else:
            with self.app.batch_update():  # one picture, with all else that is to be drawn
                await document.append(text)
            if self.is_attached:
                self.screen.check_idle()  # it looked while the batch was under way
        self.document = None if closed and len(document.source) > LONG else document
