"""The chat: a conversation on the screen, one engine behind it."""

import time
from asyncio import TimerHandle
from collections.abc import Callable

from textual import events, on
from textual.app import ComposeResult
from textual.theme import Theme

from ..attachment import folded
from ..children import Process, Starter
from ..engine.protocol import Load
from ..history import History
from ..settings import Settings
from . import garbage
from .adjusting import Adjusting
from .choosing import Choosing
from .commanding import Commanding
from .composer import Composer
from .filelist import FileList
from .keeping import Keeper
from .keys import Keys, bindings
from .lifecycle import Lifecycle
from .popup import CommandList
from .prose import Prose
from .queue import Queue
from .queueing import Queueing
from .recall import Recall
from .room import MakingRoom
from .screens import Welcome
from .session import Engine, Sampling, Session
from .speed import SpeedPanel
from .status import StatusLine
from .theme import ANSI, DARK, LIGHT, uncoloured
from .thread import TranscriptView
from .transcript import Turn, plain
from .views import COLOURED, Thinking, TurnView


class ChatApp(MakingRoom, Queueing, Choosing, Lifecycle, Adjusting, Commanding):
    """A terminal chat whose speed is seen token by token.

    Args:
        engine: Runs already, so that it comes up while the first screen is drawn.
        path: The checkpoint's folder.
        name: The model, in the person's words.
        guide: The model is the built-in guide.
        restart: Starts another engine when this one is gone.
        history: Where conversations are kept; whoever opened it closes it.
        settings: The person's config.toml.
        start_child: Starts one of mlxarch's commands in a process of its own.
        resume: The id of the conversation to go on with.
        note: What the person should know about the history.
        typed: What the person has typed so far, as if it was typed into the input.
        usual: The theme as long as none was chosen.
    """

    CSS_PATH = "chat.tcss"
    TITLE = "mlxarch"
    BINDINGS = [*bindings()]
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (72, "-wide")]
    VERTICAL_BREAKPOINTS = [(0, "-short"), (16, "-tall"), (30, "-high")]
    collected = float("-inf")  # when garbage was
    touched = float("-inf")  # when a key was, or the mouse
    look: TimerHandle | None = None  # the next one for garbage, put off

    def __init__(
        self,
        engine: Engine,
        *,
        load: Load,
        name: str,
        restart: Callable[[], Engine],
        history: History,
        guide: bool = False,
        system: str | None = None,
        sampling: Sampling | None = None,
        clock: Callable[[], float] = time.monotonic,
        settings: Settings | None = None,
        start_child: Starter = Process,
        resume: str | None = None,
        note: str = "",
        typed: str = "",
        usual: Theme = DARK,
    ):
        # Textual makes grey of what has colours, but for a theme of the terminal's own.
        super().__init__(ansi_color=uncoloured() or None)
        self.model, self.guide, self.start_engine = plain(name), guide, restart
        self.session = Session(
            engine,
            load=load,
            keeper=Keeper(history),
            model=self.model,
            system=system,
            sampling=sampling,
            clock=clock,
        )
        self.resumed, self.note, self.typed = resume, note, typed
        self.usual, self.queue = usual, Queue()
        self.clock = clock
        self.start_child, self.downloads = start_child, {}
        self.settings, self.wanted = settings or Settings(), sampling or Sampling()
        self.recall_settings()

    def compose(self) -> ComposeResult:
        """From top to bottom."""
        yield StatusLine(self.session, self.model)
        yield TranscriptView()
        yield SpeedPanel(self.session)
        yield self.queue
        yield (commands := CommandList(self.words))
        yield (files := FileList())
        yield Composer(commands, files)
        yield Keys()

    async def on_mount(self) -> None:
        """Have the model loaded while the first screen is read."""
        for theme in (DARK, LIGHT, ANSI):
            self.register_theme(theme)
        if uncoloured():
            self.theme = ANSI.name
        else:
            self.recall_theme(self.usual.name)
        self.transcript = self.query_one(TranscriptView)
        self.composer = self.query_one(Composer)
        self.panel = self.query_one(SpeedPanel)
        self.status = self.query_one(StatusLine)
        self.keys = self.query_one(Keys)
        await self.welcome()
        asked = self.session.keeper.history.questions()
        self.composer.recall = Recall(folded(question)[0] for question in asked)
        self.composer.focus()
        self.listen(self.session.engine)
        self.session.load()
        self.session.begin()
        if self.resumed:
            await self.resume(self.resumed)
        if self.note:
            self.say(self.note, warning=True)
        self.composer.type(self.typed)
        self.show_now()

    async def welcome(self) -> None:
        """The first screen."""
        await self.transcript.begin(Welcome(self.session, self.model, guide=self.guide))

    async def loaded(self) -> None:
        """Also what the start has left behind is looked at once, and not again."""
        await super().loaded()
        self._collect_in_a_rest()

    async def answered(self, turn: Turn) -> None:
        """Of an answer much is left behind, too."""
        await super().answered(turn)
        garbage.collect_new()
        self._collect_in_a_rest()

    async def action_new(self) -> None:
        """A new conversation; what was shown of the old one is garbage."""
        await super().action_new()
        self._collect()

    async def resume(self, session: str) -> None:
        """Go on with a conversation; what was shown of another one is garbage."""
        await super().resume(session)
        self._collect()

    async def on_event(self, event: events.Event) -> None:
        """Note when somebody is there."""
        if isinstance(event, events.InputEvent):
            self.touched = self.clock()
        await super().on_event(event)

    def _collect_in_a_rest(self) -> None:
        """Look for garbage when a pause is not noticed: while nothing is written or answered."""
        if self.look:
            self.look.cancel()
        if self.session.busy:
            return
        now = self.clock()
        resting = now - self.touched >= garbage.REST or now - self.collected >= garbage.LATEST
        if not (resting and self._collect()):
            self.look = self._later(garbage.REST, self._collect_in_a_rest)

    def _collect(self) -> bool:
        """Look once all is drawn, unless it is but a while ago; whether it is not."""
        now = self.clock()
        if now - self.collected < garbage.PAUSE:
            return False
        self.collected = now
        self.call_after_refresh(garbage.collect, self)
        return True

    def possible(self) -> dict[str, bool]:
        """What can be done now."""
        session = self.session
        return {
            **super().possible(),
            "new": bool(session.transcript.entries),
            "unfold": self.composer.whole != self.composer.text,
            "figures": any(turn.seconds for turn in session.transcript.turns),
            "tokens": any(turn.seconds for turn in session.transcript.turns),
            "thinking": any(turn.thinking for turn in session.transcript.turns),
        }

    @on(FileList.Chosen)
    def take_file(self, chosen: FileList.Chosen) -> None:
        """A file for the question."""
        self.composer.take_file(chosen.path)
        self.composer.focus()

    def action_unfold(self) -> None:
        """Long pastes, in full in the input."""
        self.composer.rewrite(self.composer.whole)

    def action_thinking(self) -> None:
        """Open or fold the thoughts of the last answer that has some."""
        thoughts = [view for view in self.query(Thinking) if view.turn.thinking]
        thoughts[-1].toggle()

    def action_figures(self) -> None:
        """Open or fold the figures of the selected answer, or of the last one."""
        turn = self.target
        if turn and (view := self.transcript.view(turn)):
            view.figures.toggle()

    async def action_tokens(self) -> None:
        """Answers token by token, or as Markdown; the coming ones, too."""
        page = self.transcript.page
        page.toggle_class(COLOURED)
        for view in self.query(TurnView):
            await view.colour(page.has_class(COLOURED))

    def action_page_up(self) -> None:
        """Scroll back."""
        self.transcript.scroll_page_up(animate=False)

    def action_page_down(self) -> None:
        """Scroll on; at the end the answer is followed again."""
        self.transcript.scroll_page_down(animate=False)

    @on(Prose.Linked)
    def open_link(self, event: Prose.Linked) -> None:
        """Open what leads to the web; a model may write any other address, too."""
        if event.address.startswith(("https://", "http://")):
            self.open_url(event.address)
        else:
            self.say(f"Not opened: {plain(event.address)}", warning=True)
