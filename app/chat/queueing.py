"""The next questions, written while an answer runs: they wait, and are sent one after another."""

from pathlib import Path

from textual import on

from mlxarch.errors import FormatError

from ..attachment import Image, looked_at, pictures
from .base import Base, numbered
from .composer import Composer
from .queue import Queue, Waiting
from .references import expanded, missing
from .session import Phase
from .transcript import Turn

NO_MODEL = "No model is loaded. Ctrl+R tries again; your text is kept."


class Queueing(Base):
    """Sends questions at once, or when it is their turn."""

    queue: Queue
    model: str
    known: dict[str, Image] = {}  # pictures that were shown, by their names

    def possible(self) -> dict[str, bool]:
        """What Enter does depends on whether the model has the time."""
        return {
            **super().possible(),
            "send": self.session.phase is Phase.IDLE,
            "queue": self._waits,
            "unqueue": bool(self.queue.texts),
            "stop": self.session.busy,
        }

    @property
    def _waits(self) -> bool:
        """What is sent has to wait."""
        return self.session.busy or self.session.phase is Phase.LOADING

    async def ask(self, question: str) -> None:
        """Send a question now."""

    @on(Composer.Sent)
    async def send(self, sent: Composer.Sent) -> None:
        """Send a question, or have it wait; without one, the next that waits is sent."""
        if self._waits and sent.text:
            self.queue.texts.append(sent.text)
            await self._show_queue(held=False)
        elif self.session.phase is Phase.IDLE:
            await (self._ask(sent.text) if sent.text else self._send_next())
        elif not self._waits:
            self.composer.put_back(sent.text)
            self.refuse()

    @on(Composer.Refused)
    def refuse(self) -> None:
        """Say why nothing was sent."""
        self.say(NO_MODEL, warning=True)

    async def loaded(self) -> None:
        """What was sent meanwhile is answered now, unless the model could not be loaded."""
        await super().loaded()
        if self.session.phase is not Phase.IDLE or self.queue.held:
            await self._show_queue(held=True)
        else:
            await self._send_next()

    async def answered(self, turn: Turn) -> None:
        """The answer has ended: the next question is sent if the model has ended it itself."""
        await super().answered(turn)
        if turn.ended in ("stop", "length") and not turn.failed:
            await self._send_next()
        else:
            await self._show_queue(held=True)

    async def _send_next(self) -> None:
        if self.queue.texts and self.session.phase is Phase.IDLE:
            text = self.queue.texts.pop(0)
            await self._show_queue(held=False)
            await self._ask(text)

    async def _ask(self, text: str) -> None:
        """The files that a question names are read when it is sent."""
        shown = (one for turn in self.session.transcript.all for one in pictures(turn.question))
        self.known = {**self.known, **{one.name: one for one in shown}}
        try:
            question = expanded(text, self._look, self.known)
        except FormatError as error:
            self.composer.put_back(text)
            self.say(str(error), warning=True)
            await self._show_queue(held=True)
        else:
            if names := missing(text, self.known):
                self.say(f"Sent as it is written: there is no file {', '.join(names)}.")
            await self.ask(question)

    def _look(self, file: Path) -> Image:
        """Have a copy of a picture.

        Raises: FormatError if it cannot be shown to this model, or cannot be kept.
        """
        ready = self.session.ready
        if ready is None or not ready.images:
            reason = (ready and ready.blind) or f"{self.model} cannot see."
            raise FormatError(f"{file} is a picture. {reason}")
        image, raw = looked_at(file, ready.scale)
        try:
            self.session.keeper.history.images.keep(raw, image.sha256)
        except OSError as error:
            raise FormatError(f"{file} cannot be kept: {error.strerror or error}.") from error
        return image

    async def _show_queue(self, *, held: bool) -> None:
        loading = self.session.phase is Phase.LOADING
        await self.queue.show(held=held, loading=loading)
        self.show_now()
        self.keep_draft()

    @on(Waiting.Touched)
    async def touch(self, touched: Waiting.Touched) -> None:
        """Edit one that waits, or leave it out."""
        if touched.place < len(self.queue.texts):
            text = self.queue.texts.pop(touched.place)
            if touched.edit:
                self.composer.put_back(text)
                self.composer.focus()
            await self._show_queue(held=self.queue.held)

    async def action_unqueue(self, number: str = "") -> None:
        """Take a question that waits back into the input: the last one, or by its number."""
        count = len(self.queue.texts)
        if count:
            place = numbered(number, count) if number else count
            await self.touch(Waiting.Touched(place - 1, edit=True))

    async def empty_queue(self) -> None:
        """All that waits goes back into the input: what it was meant for is gone."""
        while self.queue.texts:
            self.composer.put_back(self.queue.texts.pop())
        await self._show_queue(held=False)

    def action_send(self) -> None:
        """What Enter does in the input, for a click on the footer."""
        self.composer.send()

    def action_queue(self) -> None:
        """Likewise, while an answer runs."""
        self.composer.send()

    def action_newline(self) -> None:
        """What Ctrl+J does in the input, likewise."""
        self.composer.break_line()

    def action_stop(self) -> None:
        """Cancel the answer; what waits goes on waiting."""
        self.session.stop()
        self.show_now()
