"""The conversation on disk: written while it happens, read again when one comes back to it."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from ..engine.protocol import ToolCall
from ..history import Conversation, Damaged, Draft, History, HistoryError, Message, set_aside
from ..history.file import place
from ..history.held import Held
from ..sampling import Sampling
from .figures import facts, recall
from .transcript import Transcript, Turn, plain


def open_history(
    told: Callable[[str], object], agreed: Callable[[str], bool]
) -> tuple[History, str]:
    """The person's history, and what to tell them about it: nothing, if all is well.

    Args:
        agreed: Asks a person whether a damaged one is moved aside.
    """
    try:
        return History.open(told=told), ""
    except Damaged as error:
        if agreed(f"{error}\nMove it aside and begin a new one? Else this chat is not saved."):
            try:
                aside = set_aside(place())
                return History.open(told=told), f"The damaged history is {aside} now."
            except HistoryError as again:
                trouble = f"Nothing is saved: {again}"
        else:
            trouble = "Nothing is saved, as you chose."
    except HistoryError as error:
        trouble = f"Nothing is saved: {error}"
        with suppress(HistoryError):
            return History.nowhere(trouble, place()), trouble
    return History.nowhere(trouble), trouble


class Keeper:
    """Hands the history what changes in one conversation.

    Attributes:
        session: The conversation's id.
    """

    def __init__(self, history: History):
        self.history, self.session, self.held = history, "", Held(history.path)
        self._said: dict[str, Any] = {}  # of model and settings, so far
        self._growing: tuple[Turn, Draft] | None = None

    def begin(self, model: str, system: str | None, path: str, sampling: Sampling) -> None:
        """A new conversation."""
        self._said = _said(model, system, path, sampling)
        self.session = self.history.begin(model=model, system=system, **self._said["settings"])
        self.held.take(self.session)

    def resume(self, conversation: Conversation) -> None:
        """An old one; a copy of it, if another window has it open and writes there, too."""
        self.session = conversation.id
        if not self.held.take(self.session):
            self.session = self.history.copy(conversation.id)
            self.held.take(self.session)
        found = {name: getattr(conversation, name) for name in ("model", "system", "settings")}
        self._said = found

    def use(self, model: str, system: str | None, path: str, sampling: Sampling) -> None:
        """Who answers from now on, and how."""
        said = _said(model, system, path, sampling)
        if changes := {key: value for key, value in said.items() if value != self._said[key]}:
            self._said = said
            self.history.update(self.session, **changes)

    def asked(self, turn: Turn) -> None:
        """A question was sent, or an answer goes on."""
        before, turn.answer_id = turn.answer_id, None
        twins = (other.question_id for other in turn.versions("answer") if other is not turn)
        turn.question_id = turn.question_id or next(filter(None, twins), None)
        if turn.question_id is None:
            parent = _last_id(turn.parent)
            added = self.history.add(self.session, parent, "user", turn.question)
            turn.question_id = added.id
        draft = self.history.start(
            self.session, turn.question_id, model=self._said["model"], replaces=before
        )
        self._growing = turn, draft

    def grew(self) -> None:
        """There is more of the answer."""
        if self._growing:
            turn, draft = self._growing
            figures = _figures(turn)
            draft.grow(turn.text, turn.thinking, figures.pop("seconds"), **figures)

    def ended(self, reason: str = "") -> None:
        """The answer is as long as it gets."""
        if not self._growing:
            return
        turn, draft = self._growing
        self.grew()
        self._growing = None
        if turn.text or turn.thinking or turn.calls:
            how = reason or ("failed" if turn.failed else turn.ended or "interrupted")
            turn.answer_id = draft.finish(how).id
        else:
            draft.drop()

    def copied(self, turn: Turn) -> None:
        """An exchange was put behind another one."""
        asked = self.history.add(self.session, _last_id(turn.parent), "user", turn.question)
        figures = _figures(turn)
        answer = self.history.add(
            self.session,
            asked.id,
            "assistant",
            turn.text,
            thinking=turn.thinking,
            model=self._said["model"],
            ended="failed" if turn.failed else turn.ended,
            seconds=figures.pop("seconds"),
            **figures,
        )
        turn.question_id, turn.answer_id = asked.id, answer.id

    def stands(self, turn: Turn | None) -> None:
        """Another branch is shown."""
        self.history.set_head(self.session, _last_id(turn))

    def fork(self, turn: Turn | None) -> None:
        """Go on in a conversation that shares the past up to a turn."""
        self.session = self.history.fork(self.session, _last_id(turn))
        self.held.take(self.session)

    def remove(self, turn: Turn) -> None:
        """Forget a turn, and what follows it."""
        shared = any(other is not turn for other in turn.versions("answer"))
        if message := turn.answer_id if shared else turn.question_id:
            self.history.remove(self.session, message)

    def typed(self, text: str) -> None:
        """What is in the input."""
        self.history.set_draft(self.session, text)


def transcript(conversation: Conversation, ids: int) -> Transcript:
    """A conversation as it was, with all its branches; the ids of its turns come after `ids`."""
    found = Transcript(ids=ids)
    questions: dict[str | None, Message] = {}
    turns: dict[str | None, Turn | None] = {None: None}  # by the id of their last message

    def turn_of(question: Message) -> Turn:
        turn = Turn(id=found.next_id(), question=plain(question.content), asked=0.0)
        turn.question_id, turn.ended = question.id, "cancelled"
        found.join(turn, before(question))
        return turn

    def before(message: Message) -> Turn | None:
        parent = message.parent
        if parent not in turns:  # a question that was never answered
            turns[parent] = turn_of(questions[parent])
        return turns[parent]

    for message in conversation.messages.values():
        if message.role == "user":
            questions[message.id] = message
        elif message.role == "assistant" and message.parent in questions:
            turn = turn_of(questions[message.parent])
            turn.answer_id, turns[message.id] = message.id, turn
            _answer(turn, message)
    answered = {message.parent for message in conversation.messages.values()}
    for question in questions.values():
        if question.id not in answered:
            turns[question.id] = turn_of(question)
    _stand(found, turns.get(conversation.head))
    return found


def _stand(found: Transcript, turn: Turn | None) -> None:
    found.entries = list(turn.path()) if turn else []
    for one in found.turns:
        if one.parent:
            one.parent.seen = one


def _answer(turn: Turn, message: Message) -> None:
    kept = {**message.facts, "seconds": message.seconds}
    kept["failed"] = message.ended == "failed"
    kept["ended"] = None if kept["failed"] else message.ended or "stop"
    recall(turn, kept)
    turn.context = message.facts.get("context")
    turn.text, turn.thinking = plain(message.content), plain(message.thinking)
    calls = message.facts.get("calls", [])
    turn.calls = [ToolCall(id=turn.id, name=c["name"], arguments=c["arguments"]) for c in calls]


def _last_id(turn: Turn | None) -> str | None:
    return (turn.answer_id or turn.question_id) if turn else None


def _figures(turn: Turn) -> dict[str, Any]:
    kept = {key: value for key, value in facts(turn).items() if key not in ("ended", "failed")}
    kept |= {"lengths": list(turn.lengths), "context": turn.context}
    if turn.calls:
        kept["calls"] = [{"name": one.name, "arguments": one.arguments} for one in turn.calls]
    return kept


def _said(model: str, system: str | None, path: str, sampling: Sampling) -> dict[str, Any]:
    settings = {"path": path, "sampling": asdict(sampling)}
    return {"model": model, "system": system, "settings": settings}
