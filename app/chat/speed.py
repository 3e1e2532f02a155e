"""The panel that is this chat's signature: what the engine does, token by token."""

from typing import NamedTuple

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Digits, Static

from . import figures
from .bars import TokenBars, progress
from .gauges import Gauges
from .session import Phase, Session
from .theme import FAINT

WAITING = (Phase.LOADING, Phase.READING, Phase.UNLOADED, Phase.GONE)


class SpeedPanel(Widget):
    """Three lines: a wait with its progress, or the speed of the tokens."""

    ALLOW_SELECT = False

    def __init__(self, session: Session):
        super().__init__(id="speed")
        self.session = session
        self.wait = Wait(session)
        self.rate, self.rates, self.bars = Digits("", id="rate"), Static(id="rates"), TokenBars()
        self.pace = Horizontal(self.rate, self.rates, self.bars, id="pace")
        self.gauges = Gauges(session)
        self.speed = figures.pace([])  # when the figures were shown last

    def compose(self) -> ComposeResult:
        """Both faces, of which `refresh_figures` shows one; where it is high, gauges below."""
        yield self.wait
        yield self.pace
        yield self.gauges

    def refresh_figures(self) -> None:
        """Show what the session holds now."""
        turn = self.session.turn
        waiting = self.session.phase in WAITING or bool(turn and turn.running and not turn.seconds)
        self.pace.display, self.wait.display = not waiting, waiting
        self.wait.refresh()
        self.gauges.refresh()
        seconds = turn.seconds if turn else []
        self.pace.set_class(not seconds, "-idle")
        speed = self.speed = figures.pace(seconds, turn.guessed if turn else [])
        self.follow()
        live = bool(turn and turn.running)
        shown = speed.now if live else speed.mean
        self.rate.update(figures.rate(shown) if shown is not None else "")
        self.rates.update(Content("\n".join(self._rates(speed, live))), layout=False)

    def follow(self) -> None:
        """Show the tokens that came, and nothing else."""
        if turn := self.session.turn:
            self.bars.show(turn.seconds, turn.guessed, figures.guesses(turn), self.speed)
        else:
            self.bars.show([], [], None, self.speed)

    def _rates(self, speed: figures.Pace, live: bool) -> list[str]:
        turn = self.session.turn
        if not turn:
            return []
        mean = f"{figures.rate(speed.mean)} mean" if live and speed.mean is not None else ""
        stopping = self.session.phase is Phase.STOPPING
        return [
            "stopping" if stopping else "tok/s now" if live else "tok/s mean",
            mean or figures.tokens(len(turn.seconds)),
            f"first in {figures.duration(turn.first)}" if turn.first is not None else "",
        ]


class Stage(NamedTuple):
    """How far a wait has come; `done` and `cached` are shares of it."""

    title: str
    count: str = ""
    done: float = 0.0
    cached: float = 0.0
    remark: str = ""


class Wait(Widget):
    """A title, a bar and a remark: the model is loaded, or the prompt is read."""

    ALLOW_SELECT = False

    def __init__(self, session: Session):
        super().__init__(id="wait")
        self.session = session

    def render(self) -> Content:
        """Three lines."""
        stage, width = self._stage(), self.size.width
        gap = max(width - len(stage.title) - len(stage.count), 1)
        return Content("\n").join(
            [
                Content.assemble((stage.title, "bold"), " " * gap, (stage.count, FAINT)),
                progress(width, stage.done, stage.cached),
                Content.styled(stage.remark, FAINT),
            ]
        )

    def _stage(self) -> Stage:
        if self.session.phase is Phase.GONE:
            return Stage("The engine is gone", remark="Ctrl+R starts it again")
        if self.session.phase is Phase.UNLOADED:
            return Stage("No model is loaded", remark="Ctrl+R tries again")
        if self.session.phase is Phase.LOADING:
            return self._loading()
        return self._reading()

    def _loading(self) -> Stage:
        loading = self.session.loading
        if not loading or not loading.total:
            return Stage("Starting the engine", remark="You can write already")
        count = f"{figures.size(loading.done)} of {figures.size(loading.total)}"
        share = loading.done / loading.total
        remark = loading.remark or "You can write already"
        return Stage("Loading the model", count, share, remark=remark)

    def _reading(self) -> Stage:
        session, turn = self.session, self.session.turn
        title = "Stopping" if session.phase is Phase.STOPPING else "Reading the prompt"
        prefill = turn.prefill if turn else None
        if prefill is None or not prefill.total:
            return Stage(title)
        count = f"{prefill.done:,} of {prefill.total:,} tokens"
        if prefill.looked is not None and session.phase is not Phase.STOPPING:
            looked = prefill.looked
            return Stage("Looking at a picture", f"{looked:.0%}", looked, remark=count)
        remarks = []
        if prefill.cached:
            remarks.append(figures.cached(prefill.cached, prefill.total))
        elapsed = session.clock() - session.prefill_began
        if elapsed > 0 and prefill.done > prefill.cached:
            speed = (prefill.done - prefill.cached) / elapsed
            remarks.append(f"{figures.rate(speed)} tok/s")
            if prefill.done < prefill.total:
                left = (prefill.total - prefill.done) / speed
                remarks.append(f"about {max(round(left), 1)} s left")
        share, kept = prefill.done / prefill.total, prefill.cached / prefill.total
        return Stage(title, count, share, kept, " · ".join(remarks))
