"""The engine's life in the app: it is listened to, shown, and started again when it is gone."""

import os
import threading
from asyncio import TimerHandle, get_running_loop
from collections.abc import Callable
from time import perf_counter, process_time

from textual import on
from textual.message import Message

from mlxarch.errors import MlxarchError

from ..attachment import folded
from ..engine.protocol import Delta, Error, Event, Finish, Memory, Prefill, Ready, ToolCall
from .actions import ACTIONS
from .base import Base
from .screens import Welcome
from .session import Engine, Phase
from .transcript import Turn

FLUSH = 0.12  # seconds between two pictures of a growing answer, at least
SHARE = 1 / 3  # of a core is meant for pictures at most
SPARED = 0.005 * (os.cpu_count() or 1)  # the same beside an engine that wants all cores itself
LIVELY = 1.0  # seconds between two pictures at most, whatever they and all else take
FIGURES, TURNS = 0.3, 1.5  # seconds, and pauses, between two readings of its figures at least
KEEP = 0.6  # seconds between two times that a growing answer is handed to the history


class Lifecycle(Base):
    """Takes what the engine says."""

    start_engine: Callable[[], Engine]
    due: TimerHandle | None = None  # the next picture of an answer
    drawn, pause = 0.0, 0.0  # when the last one was, and how long it holds
    spent = 0.0  # seconds of a core, until then
    read = 0.0  # when the figures were shown last
    phase: Phase | None = None  # of the session then
    keep_due: TimerHandle | None = None

    class Said(Message):
        """The engine said something, or is gone."""

        def __init__(self, event: Event | None):
            super().__init__()
            self.event = event

    class Restarted(Message):
        """Another engine runs, or could not be started."""

        def __init__(self, engine: Engine | None, reason: str = ""):
            super().__init__()
            self.engine, self.reason = engine, reason

    def possible(self) -> dict[str, bool]:
        """A new engine only where there is none."""
        broken = self.session.phase in (Phase.UNLOADED, Phase.GONE)
        return {**super().possible(), "restart": broken}

    def listen(self, engine: Engine) -> None:
        """Read the engine in a thread of its own until it is gone."""

        def read() -> None:
            while True:
                try:
                    event = engine.receive()
                except MlxarchError as error:  # no word of the protocol
                    event = Error(id=None, kind=type(error).__name__, message=str(error))
                self.post_message(self.Said(event))
                if event is None:
                    return

        threading.Thread(target=read, name="engine events", daemon=True).start()

    @on(Said)
    async def take(self, said: Said) -> None:
        """Account for an event and show what it changed."""
        if not self.is_running:  # the chat is being closed
            return
        event, turn = said.event, self.session.turn
        loading = self.session.phase is Phase.LOADING
        was_running = turn is not None and turn.running
        failure = self.session.lost() if event is None else self.session.take(event)
        if turn and was_running:
            self._follow(turn)
        if failure:
            await self.transcript.add(failure)
        if turn and turn.running and isinstance(event, Delta | Prefill | ToolCall | Memory):
            self._show_soon()
            self._keep_soon()
        else:
            self.show_now()
        if turn and was_running and not turn.running:
            await self.answered(turn)
        if loading and self.session.phase is not Phase.LOADING:
            await self.loaded()
        if isinstance(event, Ready | Memory | Finish) and not self.session.busy:
            self.query(Welcome).refresh(layout=True)

    def _follow(self, turn: Turn) -> None:
        if turn.running:
            return
        if view := self.transcript.view(turn):
            view.call_next(view.show)
        first = turn.basis is None and len(turn.versions("answer")) == 1
        if turn.wordless and not turn.partial and first and not self.composer.text.strip():
            self.composer.put_back(folded(turn.question)[0])

    def _later(self, seconds: float, act: Callable[[], object]) -> TimerHandle:
        """Do something after so many seconds; a timer of Textual that is late may never come."""
        return get_running_loop().call_later(seconds, self.call_next, act)

    def _show_soon(self) -> None:
        """Answer and figures follow the tokens in one picture, at the pace of a person's eyes."""
        if self.due is None:
            wait = self.drawn + max(FLUSH, self.pause) - perf_counter()
            self.due = self._later(wait, self._show_growth)

    async def _show_growth(self) -> None:
        self.due, began, turn = None, perf_counter(), self.session.turn
        # What the last one took of the processor, with all else that was done since.
        used, since = process_time(), began - self.drawn
        cost = used - self.spent if since < 2 else 0.0
        self.drawn, self.spent = began, used
        ready = self.session.ready
        share = min(SHARE, SPARED) if ready and ready.device == "CPU" else SHARE
        self.pause = min(cost / share, LIVELY)
        figures = max(FIGURES, TURNS * self.pause)  # every other picture, where they are dear
        if self.phase is Phase.ANSWERING is self.session.phase and began - self.read < figures:
            self.panel.follow()
            self._show_soon()  # the figures, too, if nothing else comes
        else:
            self.show_now()
        if turn and turn.running and (view := self.transcript.view(turn)):
            await view.show()

    def _keep_soon(self) -> None:
        """What was said is on disk less than a second later."""
        if self.keep_due is None:
            self.keep_due = self._later(KEEP, self._keep_answer)

    def _keep_answer(self) -> None:
        self.keep_due = None
        self.session.keeper.grew()

    def show_now(self) -> None:
        """The panel and the footer, as they are now."""
        self.phase = self.session.phase
        self.panel.refresh_figures()
        # Of a single token there is no pace: it is read with the next picture.
        self.read = perf_counter() if self.panel.speed.now else 0.0
        self.status.refresh()
        self.composer.cursor_blink = not self.session.busy  # each blink is a picture
        possible = self.possible()  # once: this is done while an answer grows
        self.keys.show(self._moment(), [one for one in ACTIONS if possible.get(one.name, True)])

    def _moment(self) -> str:
        if self.transcript.has_focus:
            return "selecting"
        if self.session.busy:
            return "answering"
        if self.session.phase in (Phase.UNLOADED, Phase.GONE):
            return "broken"
        return "editing" if self.editing else "writing"

    def action_restart(self) -> None:
        """Another engine, or another try to load."""
        if self.session.phase is Phase.UNLOADED:
            self.session.load()
        else:
            self.session.phase = Phase.LOADING
            threading.Thread(target=self._start, name="engine start", daemon=True).start()
        self.show_now()

    def _start(self) -> None:
        self.session.engine.close()
        try:
            engine = self.start_engine()
        except (OSError, MlxarchError) as error:
            self.post_message(self.Restarted(None, str(error)))
            return
        if not self.post_message(self.Restarted(engine)):
            engine.close()

    @on(Restarted)
    async def replace_engine(self, restarted: Restarted) -> None:
        """Go on with the new engine, or without."""
        if restarted.engine:
            self.session.replaced(restarted.engine)
            self.listen(restarted.engine)
        else:
            await self.transcript.add(self.session.not_replaced(restarted.reason))
        self.show_now()
