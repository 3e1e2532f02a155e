"""The chat: a conversation on the screen, one engine behind it."""

import threading
import time
from collections.abc import Callable, Iterable

from textual import on
from textual.app import App, ComposeResult, SystemCommand
from textual.binding import Binding
from textual.message import Message
from textual.screen import Screen
from textual.timer import Timer
from textual.widgets import Footer, Markdown

from mlxarch.errors import MlxarchError

from ..engine.protocol import Delta, Error, Event, Finish, Load, Memory, Prefill, Ready
from . import clipboard
from .actions import ACTIONS
from .composer import Composer
from .screens import Help, Welcome
from .session import Engine, Phase, Sampling, Session
from .speed import SpeedPanel
from .status import StatusLine
from .theme import DARK, LIGHT
from .transcript import Turn, plain
from .views import FLUSH, Thinking, TranscriptView

BUSY = "The answer is still being written. Esc stops it; your text is kept."
LOADING = "The model is still being loaded; your text is kept."
NO_MODEL = "No model is loaded. Ctrl+R tries again; your text is kept."


class ChatApp(App[None], inherit_bindings=False):
    """A terminal chat whose speed is seen token by token.

    Args:
        engine: Runs already, so that it comes up while the first screen is drawn.
        path: The checkpoint's folder.
        name: The model, in the person's words.
        guide: The model is the built-in guide.
        restart: Starts another engine when this one is gone.
    """

    CSS_PATH = "chat.tcss"
    TITLE = "mlxarch"
    BINDINGS = [
        *(action.binding() for action in ACTIONS),
        Binding("ctrl+c", "help_quit", show=False, system=True),
    ]
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (72, "-wide")]
    VERTICAL_BREAKPOINTS = [(0, "-short"), (16, "-tall")]

    def __init__(
        self,
        engine: Engine,
        *,
        load: Load,
        name: str,
        restart: Callable[[], Engine],
        guide: bool = False,
        system: str | None = None,
        sampling: Sampling | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        super().__init__()
        self.session = Session(engine, load=load, system=system, sampling=sampling, clock=clock)
        self.model, self.guide, self.start_engine = plain(name), guide, restart
        self.copied = False
        self.panel_due: Timer | None = None
        self.possible: set[str] = set()  # names of the actions in the footer

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

    def compose(self) -> ComposeResult:
        """From top to bottom."""
        yield StatusLine(self.session, self.model)
        yield TranscriptView(id="transcript")
        yield SpeedPanel(self.session)
        yield Composer()
        yield Footer()

    async def on_mount(self) -> None:
        """Have the model loaded while the first screen is read."""
        self.register_theme(DARK)
        self.register_theme(LIGHT)
        self.theme = DARK.name
        self.transcript = self.query_one(TranscriptView)
        self.composer = self.query_one(Composer)
        self.panel = self.query_one(SpeedPanel)
        await self._begin()
        self.composer.focus()
        self._listen(self.session.engine)
        self.session.load()
        self._refresh()

    async def _begin(self) -> None:
        await self.transcript.begin(Welcome(self.session, self.model, guide=self.guide))

    def _listen(self, engine: Engine) -> None:
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
        was_running = turn is not None and turn.running
        failure = self.session.lost() if event is None else self.session.take(event)
        if turn and was_running:
            self._follow(turn)
        if failure:
            await self.transcript.add(failure)
        if isinstance(event, Delta | Prefill):
            self._refresh_soon()
        else:
            self._refresh()
        if isinstance(event, Ready | Memory | Finish):
            self.query_one(StatusLine).refresh()
            self.query(Welcome).refresh(layout=True)

    def _follow(self, turn: Turn) -> None:
        view = self.transcript.view(turn)
        if turn.running:
            view.changed()
            return
        view.call_next(view.show)
        if turn.wordless and not self.composer.text.strip():
            self.composer.put_back(turn.question)

    def _refresh_soon(self) -> None:
        """The panel follows tokens at the pace of a person's eyes."""
        if self.panel_due is None:
            self.panel_due = self.set_timer(FLUSH, self._refresh)

    def _refresh(self) -> None:
        if self.panel_due:
            self.panel_due.stop()
            self.panel_due = None
        self.panel.refresh_figures()
        possible = {action.name for action in ACTIONS if self.check_action(action.name, ())}
        if possible != self.possible:  # the footer is built anew each time
            self.possible = possible
            self.refresh_bindings()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only what can be done now is in the footer and the palette."""
        session = self.session
        possible = {
            "send": session.phase is Phase.IDLE,
            "stop": session.busy,
            "restart": session.phase in (Phase.UNLOADED, Phase.GONE),
            "copy": session.transcript.answered is not None,
            "new": bool(session.transcript.entries),
            "thinking": any(turn.thinking for turn in session.transcript.turns),
        }
        return possible.get(action, True)

    def get_system_commands(self, screen: Screen) -> Iterable[SystemCommand]:
        """The palette: our actions that are possible now, and the themes."""
        for action in ACTIONS:
            if action.palette and self.check_action(action.name, ()):
                run = getattr(self, f"action_{action.name}")
                yield SystemCommand(action.label, action.help, run)
        yield SystemCommand("Theme", "Change the colours", self.action_change_theme)

    @on(Composer.Sent)
    async def ask(self, sent: Composer.Sent) -> None:
        """Send a question, unless another one was quicker."""
        if self.session.phase is not Phase.IDLE:
            self.composer.put_back(sent.text)
            self.refuse()
            return
        turn = self.session.ask(sent.text)
        await self.transcript.add(turn)
        self.transcript.anchor()
        self._refresh()

    @on(Composer.Refused)
    def refuse(self) -> None:
        """Say why nothing was sent."""
        session = self.session
        reason = BUSY if session.busy else LOADING if session.phase is Phase.LOADING else NO_MODEL
        self.notify(reason, severity="warning", markup=False)

    def action_send(self) -> None:
        """What Enter does in the input, for a click on the footer."""
        self.composer.send()

    def action_newline(self) -> None:
        """What Ctrl+J does in the input, likewise."""
        self.composer.break_line()

    def action_stop(self) -> None:
        """Cancel the answer."""
        self.session.stop()
        self._refresh()

    def action_copy(self) -> None:
        """The last answer goes to the clipboard."""
        if turn := self.session.transcript.answered:
            self.copy_to_clipboard(turn.text)
            self.notify(clipboard.NOTES[self.copied], markup=False)

    def copy_to_clipboard(self, text: str) -> None:
        """Whatever is copied: an answer, or what is selected with the mouse or in the input."""
        super().copy_to_clipboard(text)  # asks the terminal
        self.copied = clipboard.copy(text)

    def action_thinking(self) -> None:
        """Open or fold the thoughts of the last answer that has some."""
        thoughts = [view for view in self.query(Thinking) if view.turn.thinking]
        thoughts[-1].toggle()

    async def action_new(self) -> None:
        """An empty screen."""
        self.session.clear()
        await self._begin()
        self.query_one(StatusLine).refresh()
        self._refresh()

    def action_page_up(self) -> None:
        """Scroll back."""
        self.transcript.scroll_page_up(animate=False)

    def action_page_down(self) -> None:
        """Scroll on; at the end the answer is followed again."""
        self.transcript.scroll_page_down(animate=False)

    def action_help(self) -> None:
        """Show the keys."""
        self.push_screen(Help())

    def action_help_quit(self) -> None:
        """Ctrl+C, where it copies nothing: say which key does what was meant."""
        stop = "Esc stops the answer. " if self.session.busy else ""
        self.notify(f"{stop}Ctrl+Q ends the chat.", markup=False)

    def action_restart(self) -> None:
        """Another engine, or another try to load."""
        if self.session.phase is Phase.UNLOADED:
            self.session.load()
        else:
            self.session.phase = Phase.LOADING
            threading.Thread(target=self._start, name="engine start", daemon=True).start()
        self._refresh()

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
            self._listen(restarted.engine)
        else:
            await self.transcript.add(self.session.not_replaced(restarted.reason))
        self._refresh()

    @on(Markdown.LinkClicked)
    def open_link(self, event: Markdown.LinkClicked) -> None:
        """Open what leads to the web; a model may write any other address, too."""
        if event.href.startswith(("https://", "http://")):
            self.open_url(event.href)
        else:
            self.notify(f"Not opened: {plain(event.href)}", severity="warning", markup=False)
