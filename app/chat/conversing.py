"""What is done with messages: ask them otherwise, answer them again, take them elsewhere."""

from functools import partial

from textual import on

from ..attachment import folded
from . import clipboard
from .base import Base, numbered
from .choice import Choice
from .code import Block, blocks, fenced
from .context import SUM_UP
from .session import Phase
from .thread import TranscriptView
from .transcript import Part, Turn
from .versions import Versions

DELETE = [("delete", "Delete for good"), ("", "Keep")]


class Conversing(Base):
    """Acts on the selected message, or on the last one where none is selected."""

    set_aside: str = ""  # what was in the input before
    copied: bool = False

    def possible(self) -> dict[str, bool]:
        """Most things wait until the answer has ended."""
        idle, turn = self.session.phase is Phase.IDLE, self.target
        still = not self.session.busy and turn is not None
        return {
            **super().possible(),
            "edit": still,
            "regenerate": idle and turn is not None,
            "continue": idle and turn is not None and turn.partial and not turn.replies,
            "fork": still,
            "undo": still,
            "remove": still,
            "version": still and self._varied is not None,
            "earlier": self._version(turn, self._turning, -1) is not None,
            "later": self._version(turn, self._turning, 1) is not None,
            "copy": self._copyable() != "",
            "code": fenced(self._copyable()) or any(fenced(one.text) for one in self._turns),
            "select": bool(self.transcript.messages),
            "leave": bool(self.transcript.selected or self.editing),
        }

    @property
    def target(self) -> Turn | None:
        """The turn that is meant."""
        selected = self.transcript.selected
        return selected[0] if selected else self.session.transcript.last

    @property
    def part(self) -> Part:
        """The message of the turn that is meant."""
        selected = self.transcript.selected
        return selected[1] if selected else "answer"

    @property
    def _turning(self) -> Part:
        """Whose versions the arrows go through: those of the other message if there is but one."""
        other: Part = "question" if self.part == "answer" else "answer"
        turn = self.target
        return other if turn and len(turn.versions(self.part)) == 1 else self.part

    @property
    def _turns(self) -> list[Turn]:
        """The selected turn, or all of them, the last one first."""
        selected = self.transcript.selected
        return [selected[0]] if selected else list(self.session.transcript.turns)[::-1]

    @property
    def _varied(self) -> Turn | None:
        """The selected turn, or the last one, that has another version."""
        return next((turn for turn in self._turns if len(turn.siblings) > 1), None)

    async def show_thread(self) -> None:
        """Show the branch where the session stands."""
        entries = self.session.transcript.entries
        if entries:
            await self.transcript.show(entries)
            self.transcript.anchor()
        else:
            await self.welcome()
        self.show_now()

    async def welcome(self) -> None:
        """An empty screen."""

    async def ask(self, question: str) -> None:
        """Send a question: after the last message, or in place of the one that is edited."""
        if self.editing:
            turn, self.editing = self.editing, None
            self.session.ask_after(turn.parent, question)
            self._put_draft_back()
        else:
            self.session.ask(question)
        await self.show_thread()

    async def answered(self, turn: Turn) -> None:
        """A second answer that never began is left out; one that says the same is explained."""
        self.transcript.show_choices()
        others = [one for one in turn.versions("answer") if one is not turn and one.text.strip()]
        if others and turn.wordless and not (turn.failed or turn.thinking):
            self.session.show(others[-1])
            self.session.remove_version(turn)
            await self.show_thread()
        elif turn.ended == "stop" and not turn.basis and turn.text in [one.text for one in others]:
            self.say("The same answer: at temperature 0 it always is. /set temperature 0.7 varies.")
        await super().answered(turn)

    @on(TranscriptView.Selected)
    def follow_selection(self) -> None:
        """The footer shows what can be done with a message."""
        self.show_now()

    def action_select(self) -> None:
        """From the input to the last message."""
        self.screen.set_focus(self.transcript)  # at once: the next key may be here already
        if not self.transcript.selected:
            self.transcript.action_end(-1)

    def action_leave(self) -> None:
        """Back to the input: nothing is selected, and nothing edited."""
        if self.transcript.selected:
            self.transcript.select(None)
        elif self.editing:
            self.editing = None
            self.composer.rewrite("")
            self._put_draft_back()
        self.composer.focus()
        self.show_now()

    def action_edit(self) -> None:
        """The question into the input; sent again it makes a branch."""
        if turn := self.target:
            if not self.editing:
                self.set_aside = self.composer.text
            self.editing = turn
            self.composer.rewrite(folded(turn.question)[0])
            self.composer.border_title = "Another version of this question · Esc leaves it as it is"
            self.transcript.select(None)
            self.composer.focus()
            self.show_now()

    def _end_edit(self) -> None:
        """The question goes: what was made of it stays in the input."""
        if turn := self.editing:
            self.editing = None
            if self.composer.text == folded(turn.question)[0]:
                self.composer.rewrite("")
            self._put_draft_back()

    def _put_draft_back(self) -> None:
        self.composer.border_title = ""
        if self.set_aside:
            self.composer.put_back(self.set_aside)
            self.set_aside = ""

    async def action_regenerate(self) -> None:
        """Another answer to the same question, beside the one so far."""
        if turn := self.target:
            self.session.regenerate(turn)
            await self.show_thread()
            self.composer.focus()

    async def action_continue(self) -> None:
        """Have an answer go on that was cut off."""
        if turn := self.target:
            self.transcript.select(None)
            self.session.go_on(turn)
            await self.transcript.renew(turn)
            self.transcript.anchor()
            self.composer.focus()
            self.show_now()

    async def action_fork(self) -> None:
        """Another conversation: with the answer, or with the question in the input again."""
        if turn := self.target:
            self._end_edit()
            with_answer = self.part == "answer" and not turn.wordless
            self.session.fork(turn if with_answer else turn.parent)
            if not with_answer:
                self.composer.put_back(folded(turn.question)[0])
            await self.show_thread()
            self.composer.focus()
            self.say("This is a conversation of its own now; the other one stays as it was.")

    async def action_undo(self) -> None:
        """Back to before the last exchange, which stays as a version."""
        if turn := self.session.transcript.last:
            self.session.leave(turn)
            if not self.composer.text.strip():
                self.composer.put_back(folded(turn.question)[0])
            await self.show_thread()

    def action_remove(self) -> None:
        """Delete an exchange, and what follows it, once the person has agreed."""
        if turn := self.target:
            count = turn.size
            what = "this exchange" if count == 1 else f"this exchange and {count - 1} after it"
            self.push_screen(
                Choice("Delete", f"Delete {what}? {turn.question[:60]}", DELETE),
                partial(self._remove, turn),
            )

    async def _remove(self, turn: Turn, answer: str | None) -> None:
        if answer:
            if self.editing and turn in self.editing.path():
                self._end_edit()
            self.session.remove(turn)
            await self.show_thread()
            self.composer.focus()

    async def action_version(self, number: str = "") -> None:
        """The next version of a message, or the one with a number."""
        turn = self._varied
        if not turn:
            return
        # Of a summary what it took the place of is meant, and not the summary before it.
        answers = turn.question != SUM_UP and len(turn.versions("answer")) > 1
        part: Part = "answer" if answers else "question"
        versions = turn.versions(part)
        following = (versions.index(turn) + 1) % len(versions)
        place = numbered(number, len(versions)) - 1 if number else following
        await self._turn(versions[place], part)

    async def action_earlier(self) -> None:
        """The version before."""
        if turn := self._version(self.target, self._turning, -1):
            await self._turn(turn, self.part)

    async def action_later(self) -> None:
        """The version after."""
        if turn := self._version(self.target, self._turning, 1):
            await self._turn(turn, self.part)

    @on(Versions.Turned)
    async def turn_to(self, turned: Versions.Turned) -> None:
        """A click on an arrow."""
        turn = self._version(turned.turn, turned.part, turned.step)
        if turn:
            await self._turn(turn, None)

    def _version(self, turn: Turn | None, part: Part, step: int) -> Turn | None:
        if turn is None or self.session.busy:
            return None
        versions = turn.versions(part)
        place = versions.index(turn) + step
        return versions[place] if 0 <= place < len(versions) else None

    async def _turn(self, turn: Turn, part: Part | None) -> None:
        selected = self.transcript.selected is not None
        self.session.show(turn)
        await self.show_thread()
        if selected and part:
            self.transcript.select((turn, part if part in turn.parts else "question"))

    def _copyable(self) -> str:
        selected = self.transcript.selected
        if selected:
            turn, part = selected
            return turn.question if part == "question" else turn.text
        turn = self.session.transcript.answered
        return turn.text if turn else ""

    def _code(self) -> list[Block]:
        """The blocks of code of the selected message, or of the last that has some."""
        if self.transcript.selected:
            return blocks(self._copyable())
        return next((found for turn in self._turns if (found := blocks(turn.text))), [])

    def action_copy(self) -> None:
        """The selected message, or the last answer, goes to the clipboard."""
        what = "question" if self.transcript.selected and self.part == "question" else "answer"
        self._copy(self._copyable(), what)

    def action_code(self) -> None:
        """A block of code goes to the clipboard: the only one, or one of those that are there."""
        found = self._code()
        if len(found) == 1:
            self._copy(found[0].text, "code")
        elif found:
            options = [(str(place), block.line) for place, block in enumerate(found)]
            self.push_screen(
                Choice("Copy which block?", "", options),
                lambda place: self._copy(found[int(place)].text, "code") if place else None,
            )

    def _copy(self, text: str, what: str) -> None:
        self.copy_to_clipboard(text)
        self.say(clipboard.note(what, copied=self.copied))

    def copy_to_clipboard(self, text: str) -> None:
        """Whatever is copied: a message, or what is selected with the mouse or in the input."""
        super().copy_to_clipboard(text)  # asks the terminal
        self.copied = clipboard.copy(text)
