"""Conversations that are kept: the list of them, and what is done with the one that is open."""

from dataclasses import replace
from functools import partial

from textual import on
from textual.message import Message
from textual.widgets import TextArea

from ..attachment import folded
from ..history import HistoryError
from ..sampling import Sampling
from .base import brief
from .choice import Choice
from .conversing import Conversing
from .queueing import Queueing
from .sessions import DELETE, Sessions, ask_where, export


class Remembering(Conversing, Queueing):
    """Opens and closes conversations."""

    model: str
    wanted: Sampling

    class Trouble(Message):
        """Nothing can be saved, and why; or all is well again."""

        def __init__(self, text: str):
            super().__init__()
            self.text = text

    def possible(self) -> dict[str, bool]:
        """A conversation is deleted only once the answer has ended."""
        some = bool(self.session.transcript.first)
        return {
            **super().possible(),
            "rename": some,
            "export": some,
            "delete": some and not self.session.busy,
        }

    @on(Trouble)
    def tell_trouble(self, trouble: Trouble) -> None:
        """Say it once, and once more when it is over."""
        self.say(trouble.text or "Saved again.", warning=bool(trouble.text))
        self.status.refresh()

    @on(TextArea.Changed, "#composer")
    def keep_draft(self) -> None:
        """What is being written is not lost either."""
        written = self.composer.whole
        if self.editing:
            asked = folded(self.editing.question)[0]
            before = self.composer.pastes.whole(self.set_aside)
            texts = [before, "" if written == asked else written]
        else:
            texts = [written]
        texts = [*self.queue.texts, *texts]
        self.session.keeper.typed("\n\n".join(text for text in texts if text))

    def abandon(self) -> None:
        """Leave the conversation: an answer under way is stopped, and kept so far."""
        if self.session.busy:
            self.say("The answer was stopped. What was said so far is kept with its conversation.")
        self.session.abandon()
        self._end_edit()

    async def resume(self, session: str) -> None:
        """Go on with a conversation: its branch, its draft, what was cut off."""
        try:
            conversation = self.session.keeper.history.load(session)
        except HistoryError as error:
            self.say(str(error), warning=True)
            return
        await self.empty_queue()
        self.abandon()
        self.session.resume(conversation, self.wanted)
        if self.session.keeper.session != session:
            conversation = replace(conversation, draft="")  # the other window has it
            self.say("It is open in another window; here a copy goes on, with the same past.")
        self.composer.rewrite(conversation.draft)
        await self.show_thread()
        last = self.session.transcript.last
        if last and last.wordless and not last.partial and not conversation.draft:
            self.composer.put_back(folded(last.question)[0])
        self.composer.focus()
        self.status.refresh()
        if conversation.model and conversation.model != self.model:
            self.say(f"So far {conversation.model} answered here; from now on it is {self.model}.")
        if last and last.partial:
            how = "Ctrl+Up, then o has" if conversation.draft else "/continue has"
            self.say(f"The last answer was cut off. {how} it go on.")

    def on_unmount(self) -> None:
        """What was said so far of an answer is kept."""
        self.session.keeper.ended("interrupted")
        self.session.keeper.held.release()

    async def action_new(self) -> None:
        """A new conversation; the old one stays in the list."""
        await self.empty_queue()
        self.abandon()
        self.session.keeper.typed("")
        self.session.clear()
        self.session.begin()
        self.keep_draft()
        await self.welcome()
        self.status.refresh()
        self.show_now()

    async def action_sessions(self, query: str = "") -> None:
        """The list of conversations."""
        keeper = self.session.keeper
        await self.push_screen(Sessions(keeper.history, keeper.session, query), self._open)

    async def _open(self, session: str | None) -> None:
        if session and session != self.session.keeper.session:
            await self.resume(session)

    def action_rename(self, title: str) -> None:
        """Another title for this conversation."""
        title = " ".join(title.split())
        self.session.keeper.history.rename(self.session.keeper.session, title)
        self.say(f"This conversation is called “{brief(title)}” now.")

    def action_export(self, path: str = "") -> None:
        """This conversation as a file."""
        keeper = self.session.keeper
        if path:
            self.say(export(keeper.history, keeper.session, path))
        else:
            ask_where(self, keeper.history, keeper.session)

    def action_delete(self) -> None:
        """Delete this conversation, once the person has agreed."""
        box = Choice("Delete", "Delete this conversation with all its branches?", DELETE)
        self.push_screen(box, partial(self._delete, self.session.keeper.session))

    async def _delete(self, session: str, answer: str | None) -> None:
        if answer:
            await self.action_new()
            self.session.keeper.history.delete(session)
