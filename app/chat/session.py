"""One conversation with one engine; knows nothing of widgets."""

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from enum import Enum, auto
from typing import Protocol

from ..attachment import Image
from ..engine.protocol import (
    Command,
    Delta,
    Error,
    Event,
    Finish,
    Generate,
    Load,
    Loading,
    Memory,
    Prefill,
    Ready,
    Stats,
    Stop,
    ToolCall,
)
from ..history import Conversation
from ..sampling import Sampling
from ..settings import merged
from .keeping import Keeper, transcript
from .showing import with_pictures
from .transcript import Failure, Transcript, Turn, plain

INTERVAL = 0.1  # seconds between two pieces of an answer: pictures are rarer
SPARING = 0.2  # the same, of an engine that each of them takes a core from


class Engine(Protocol):
    """What the chat needs of an engine: the real one's client, or a script in a test."""

    @property
    def exit_code(self) -> int | None:
        """How its process ended, or None while it runs."""

    def send(self, command: Command) -> None:
        """Hand it a command."""

    def receive(self) -> Event | None:
        """Wait for its next event; None once it is gone."""

    def log_tail(self) -> str:
        """The last lines it logged."""

    def close(self) -> None:
        """End it."""


class Phase(Enum):
    """What the engine is doing, as far as the chat knows."""

    LOADING = auto()
    IDLE = auto()
    READING = auto()
    ANSWERING = auto()
    STOPPING = auto()
    UNLOADED = auto()  # the engine lives, but the model could not be loaded
    GONE = auto()


class Session:
    """Sends commands, takes events, and keeps what they add up to."""

    def __init__(
        self,
        engine: Engine,
        *,
        load: Load,
        keeper: Keeper,
        model: str = "",
        system: str | None = None,
        sampling: Sampling | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.keeper, self.model = keeper, model
        self.engine, self.to_load, self.system = engine, load, system
        self.sampling, self.clock = sampling or Sampling(), clock
        self.transcript = Transcript()
        self.phase = Phase.LOADING
        self.loading: Loading | None = None
        self.ready: Ready | None = None
        self.memory: Memory | None = None
        self.turn: Turn | None = None  # the one being answered, or the last one
        self.prefill_began = 0.0
        self.gone = set[Image]()  # pictures of which that was said

    @property
    def busy(self) -> bool:
        """An answer is under way."""
        return self.phase in (Phase.READING, Phase.ANSWERING, Phase.STOPPING)

    def load(self) -> None:
        """Have the model loaded."""
        self.phase, self.loading = Phase.LOADING, None
        self.engine.send(self.to_load)

    def switch(self, path: str) -> None:
        """Another model from now on; whoever guessed for the last one may not know its tokens."""
        draft = self.to_load.draft
        draft = draft if draft in ("heads", "lookup", "off") else "heads"
        self.to_load = replace(self.to_load, path=path, draft=draft)
        self.ready = self.memory = None

    def ask(self, question: str) -> Turn:
        """Send the conversation that is shown with one more question."""
        return self.ask_after(self.transcript.last, question)

    def ask_after(self, turn: Turn | None, question: str) -> Turn:
        """Send the conversation up to a turn, or nothing of it, and a question."""
        asked = self.transcript.ask(question, self.clock(), turn)
        self.generate(asked)
        return asked

    def regenerate(self, turn: Turn) -> Turn:
        """Ask the same once more; the answer so far is kept beside the new one."""
        return self.ask_after(turn.parent, turn.question)

    def go_on(self, turn: Turn) -> None:
        """Have an answer go on that was cut off; nothing is said after it so far."""
        turn.go_on(self.transcript.next_id(), self.clock())
        self.generate(turn)

    def generate(self, turn: Turn) -> None:
        """Send the conversation up to a turn, to be answered there."""
        self.turn = turn
        self.phase, self.prefill_began = Phase.READING, self.clock()
        sampling = asdict(self.sampling)
        if sampling["seed"] is not None:  # another answer each time, and the same ones again
            sampling["seed"] += len(turn.versions("answer")) - 1
        messages = self.transcript.messages(self.system, turn)
        if self.ready and self.ready.images:
            messages, gone = with_pictures(messages, self.keeper.history.images)
            self._tell_gone(gone - self.gone)
        self.keeper.use(self.model, self.system, self.to_load.path, self.sampling)
        self.keeper.asked(turn)
        interval = SPARING if self.ready and self.ready.device == "CPU" else INTERVAL
        self.engine.send(Generate(id=turn.id, messages=messages, interval=interval, **sampling))

    def _tell_gone(self, gone: set[Image]) -> None:
        if gone:
            self.gone |= gone
            names = ", ".join(sorted(image.name for image in gone))
            where = f"There is no copy in {self.keeper.history.images.folder} any more: {names}."
            self._note("A picture is gone.", where, "The model only reads that there was one.")

    def remove_version(self, turn: Turn) -> None:
        """Forget a turn that is not shown."""
        self.keeper.remove(turn)
        turn.siblings.remove(turn)
        self.stand()

    def stop(self) -> None:
        """Cancel the answer under way; its `Finish` is still to come."""
        if self.turn and self.busy and self.phase is not Phase.STOPPING:
            self.phase = Phase.STOPPING
            self.engine.send(Stop(id=self.turn.id))

    def abandon(self) -> None:
        """End the answer under way; what the engine still says of it is ignored."""
        self.stop()
        if self.turn and self.busy:
            self.phase, self.turn.ended = Phase.IDLE, "cancelled"
            self.keeper.ended()

    def clear(self) -> None:
        """Begin a new conversation."""
        self.abandon()
        self.transcript = Transcript(ids=self.transcript.ids)
        self.turn = None

    def begin(self) -> None:
        """An empty conversation."""
        self.keeper.begin(self.model, self.system, self.to_load.path, self.sampling)

    def resume(self, conversation: Conversation, wanted: Sampling) -> None:
        """Go on with a conversation that was kept; what is `wanted` comes before its settings."""
        self.clear()
        self.keeper.resume(conversation)
        self.transcript = transcript(conversation, self.transcript.ids)
        self.turn = self.transcript.last
        self.system = conversation.system
        kept = conversation.settings.get("sampling", {})
        known = {key: value for key, value in kept.items() if key in vars(wanted)}
        self.sampling = merged(Sampling(**known), wanted)

    def show(self, turn: Turn) -> None:
        """Show the branch through a turn, down to where it was left."""
        self.transcript.show(turn)
        self.stand()

    def leave(self, turn: Turn) -> None:
        """Go back to before a turn, which stays where it is."""
        self.transcript.leave(turn)
        self.stand()

    def stand(self) -> None:
        """Know and keep where the conversation stands after a change."""
        self.turn = self.transcript.last
        self.keeper.stands(self.turn)

    def fork(self, turn: Turn | None) -> None:
        """Go on in another conversation, which has the same past up to a turn."""
        self.keeper.fork(turn)
        self.transcript = self.transcript.branch(turn)
        self.turn = self.transcript.last

    def remove(self, turn: Turn) -> None:
        """Forget a turn and all that follows it."""
        self.keeper.remove(turn)
        self.transcript.remove(turn)
        self.stand()

    def take(self, event: Event) -> Failure | None:
        """Account for an event; the failure it tells of, if it does."""
        if isinstance(event, Error):
            return self._fail(event)
        if isinstance(event, Loading):
            self.loading = event
        elif isinstance(event, Ready):
            self.ready, self.phase = event, Phase.IDLE
        elif isinstance(event, Memory):
            self.memory = event
        elif self.turn and self.turn.running and event.id == self.turn.id:
            self._progress(self.turn, event)
            if isinstance(event, Finish) and event.remark:
                return self._note("The answer was cut short.", event.remark)
        return None

    def lost(self) -> Failure:
        """The engine is gone: end what it was doing."""
        self.phase = Phase.GONE
        if self.turn and self.turn.running:
            self.turn.failed = True
            self.keeper.ended()
        return self._note(
            f"The engine stopped (exit code {self.engine.exit_code}).",
            self.engine.log_tail().strip(),
            "The conversation is kept. Ctrl+R starts the engine again and reloads the model.",
        )

    def replaced(self, engine: Engine) -> None:
        """Another engine took the place of the one that is gone: load the model again."""
        self.engine = engine
        self.load()

    def not_replaced(self, reason: str) -> Failure:
        """There is still no engine."""
        self.phase = Phase.GONE
        return self._note("The engine could not be started.", reason, "Ctrl+R tries again.")

    def _progress(self, turn: Turn, event: Prefill | Delta | ToolCall | Stats | Finish) -> None:
        stopping = self.phase is Phase.STOPPING
        if isinstance(event, Prefill):
            if turn.prefill is None:
                self.prefill_began = self.clock()
            turn.prefill = event
        elif isinstance(event, Delta):
            turn.grow(event, self.clock())
            self.phase = self.phase if stopping else Phase.ANSWERING
        elif isinstance(event, ToolCall):
            turn.calls.append(event)
        elif isinstance(event, Stats):
            turn.account(event)
        else:
            turn.ended, self.phase = event.reason, Phase.IDLE
            self.keeper.ended()

    def _fail(self, error: Error) -> Failure | None:
        if error.id is None:
            if self.phase is Phase.LOADING:
                self.phase = Phase.UNLOADED
                return self._note(error.kind, error.message, "Ctrl+R tries to load it again.")
            return self._note(error.kind, error.message)
        if not self.turn or not self.turn.running or error.id != self.turn.id:
            return None
        self.turn.failed, self.phase = True, Phase.IDLE
        self.keeper.ended()
        return self._note(error.kind, error.message)

    def _note(self, title: str, message: str, advice: str = "") -> Failure:
        failure = Failure(plain(title), plain(message), advice)
        self.transcript.entries.append(failure)
        return failure
