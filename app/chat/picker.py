"""The screen where a model is chosen: what is here, what would fit, what may be fetched."""

from typing import Any

from textual import getters, on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from mlxarch.files import is_model, local
from mlxarch.words import many

from ..children import Child, Starter
from .base import Base
from .figures import size
from .offers import CONTEXTS, SIGNS, Download, Offer, Offers
from .theme import FAINT
from .transcript import plain

COLOURS = {"fits": "$success", "tight": "$warning", "too large": "$error", "": FAINT}
FIGURES = 34  # cells of a line that are figures
HINT = "↑ ↓ choose · Enter takes · F4 another context · Esc closes"


class Picker(ModalScreen[Offer | None]):
    """Dismissed with the model to load, whose folder is known, or None.

    Args:
        start: Starts one of mlxarch's commands.
        downloads: Those of the app, by repository; they outlive this screen.
        words: What the list is filtered by at first.
    """

    BINDINGS = [
        Binding("escape", "close", "Close"),
        Binding("f4", "context", "Context"),
        Binding("down", "move(1)", show=False),
        Binding("up", "move(-1)", show=False),
        Binding("pagedown", "move(8)", show=False),
        Binding("pageup", "move(-8)", show=False),
    ]

    app = getters.app(Base)

    def __init__(self, start: Starter, downloads: dict[str, Download], words: str = ""):
        super().__init__()
        self.start, self.downloads, self.words = start, downloads, words
        self.offers = Offers()
        self.shown: list[Offer | str | None] = []  # of each line: a model, words to search, a title
        self.context = 1  # of CONTEXTS
        self.status = "Looking at what is here ..."
        self.moved = False  # somebody has chosen a line
        self.asked = ""  # the repository that Enter was pressed for once
        self.child: Child | None = None

    class Wanted(Message):
        """A repository is to be fetched, or its download to go on."""

        def __init__(self, repo: str):
            super().__init__()
            self.repo = repo

    class Told(Message):
        """A command said something, or ended."""

        def __init__(self, what: str, told: dict[str, Any], failure: str | None = None):
            super().__init__()
            self.what, self.told, self.failure = what, told, failure

    def compose(self) -> ComposeResult:
        """A line to type in, the list, and what is known of the line that is chosen."""
        with Vertical(id="picker") as box:
            box.border_title = "Models"
            yield Input(
                self.words,
                placeholder="type to filter, to search the hub, or the path of a folder",
                id="picker-words",
            )
            yield OptionList(id="picker-list")
            yield Static(id="picker-details")
            yield Static(HINT, id="picker-hint")

    def on_mount(self) -> None:
        """Ask what there is."""
        self.list = self.query_one(OptionList)
        self.list.can_focus = False
        self._look()

    def on_unmount(self) -> None:
        """Nobody waits for what is still being looked up."""
        if self.child:
            self.child.stop()

    def _look(self) -> None:
        if self.child:
            self.child.stop()
        self.offers = Offers(found=self.offers.found, searched=self.offers.searched)
        self.status = "Looking at what is here ..."
        self._run("fit", ["fit", "--json", "--context", str(CONTEXTS[self.context])])
        self.refresh_list()

    def _run(self, what: str, arguments: list[str]) -> None:
        self.child = self.start(
            arguments,
            lambda told: self.post_message(self.Told(what, told)),
            lambda code, words: self.post_message(self.Told(what, {}, words if code else "")),
        )

    @on(Told)
    def take(self, said: Told) -> None:
        """A line of a command: a form of a model, or a repository."""
        if said.failure is not None:
            self.status = plain(said.failure)
            if said.what == "search" and not said.failure:
                self._searched()
        elif said.what == "search":
            self.offers.add_found(said.told)
        elif said.what == "one":
            self.offers.know(said.told)
        else:
            self.offers.add(said.told)
        self.refresh_list()

    def _searched(self) -> None:
        """Say how that ended, and go to what was found."""
        found, words = self.offers.found, self.offers.searched
        count = f"{len(found)} repositor{'y' if len(found) == 1 else 'ies'}"
        self.status = f"{count} on the hub." if found else f"Nothing to run on the hub for {words}."
        self.refresh_list()
        if found and found[0] in self.shown and self.chosen == words:
            self.list.highlighted, self.moved = self.shown.index(found[0]), True

    def refresh_list(self) -> None:
        """Bring the list up to what is known and typed, and stay on the line that was chosen."""
        words, before = self._typed, self.chosen
        lines: list[tuple[Offer | str | None, Content, bool]] = []
        for title, offers in self.offers.titled(words):
            if offers:
                lines.append((None, Content.styled(title, "bold"), False))
                lines += [(offer, self._line(offer), True) for offer in offers]
        if words:
            what = "Load" if self._is_path else "Search the hub for"
            lines.append((words.lower(), Content.styled(f"{what} {words}", "$text-accent"), True))
        self.shown = [line[0] for line in lines]
        self.list.clear_options()
        self.list.add_options(Option(text, disabled=not usable) for _, text, usable in lines)
        places = [i for i, one in enumerate(self.shown) if one is not None]
        same = [i for i in places if self.moved and _key(self.shown[i]) == _key(before)]
        self.list.highlighted = (same or places or [None])[0]
        self.show_details()

    @property
    def _typed(self) -> str:
        return self.query_one(Input).value.strip()

    @property
    def _is_path(self) -> bool:
        return self._typed.startswith(("/", "./", "../", "~"))

    def _line(self, offer: Offer) -> Content:
        download = self.downloads.get(offer.repo)
        if download and download.state in ("running", "paused", "failed") and download.total:
            share = f"{download.done / download.total:.0%} {download.state}"
            figures = share.rjust(FIGURES)
        else:
            parts = [
                (many(offer.parameters) if offer.parameters else "").rjust(6),
                offer.form.partition(",")[0][:8].rjust(9),
                (size(offer.disk) if offer.disk else "").rjust(9),
                (f"<{offer.at_most_tokens_per_second:,.0f}/s" if offer.roomy else "").rjust(10),
            ]
            figures = "".join(parts)
        width = max(self.list.size.width - FIGURES - 6, 12)
        name = plain(offer.name)
        name = name if len(name) <= width else f"{name[: width - 1]}…"
        return Content.assemble(
            (f"{SIGNS[offer.verdict]} ", COLOURS[offer.verdict]),
            name.ljust(width),
            (figures, FAINT),
        )

    @property
    def chosen(self) -> Offer | str | None:
        """The model, or the words to search for, on the highlighted line."""
        index = self.list.highlighted
        return self.shown[index] if index is not None and index < len(self.shown) else None

    def show_details(self) -> None:
        """What is known of the chosen line, and what Enter does."""
        offer = self.chosen
        if isinstance(offer, Offer):
            parts = [plain(offer.about), offer.outcome, offer.sum, self._next(offer)]
        else:
            parts = [self.status]
        if isinstance(offer, Offer) and self.status and not self.offers.here:
            parts.append(self.status)
        text = "\n".join(part for part in parts if part)
        self.query_one("#picker-details", Static).update(Content(text))

    def _next(self, offer: Offer) -> str:
        download = self.downloads.get(offer.repo)
        if offer.folder or (download and download.state == "done"):
            return "Enter loads it."
        if not offer.repo:
            return self._made(offer)
        if download and download.state == "running":
            return f"{download.progress} Enter pauses."
        if download and download.state != "done":
            return f"{plain(download.progress)} Enter goes on."
        all_the_same = " all the same" if offer.verdict == "too large" else ""
        if self.asked == offer.repo:
            return f"Enter again fetches {size(offer.disk)}{all_the_same}."
        return f"Enter fetches it{all_the_same}."

    def _made(self, offer: Offer) -> str:
        """How to get what nobody is known to have made."""
        origin = self.offers.origin(offer)
        return f"`mlxarch convert {origin} FOLDER --bits 4` makes it; nobody is known to have it."

    @on(Input.Changed)
    def filter(self) -> None:
        """Another filter."""
        self.asked = ""
        self.refresh_list()

    @on(OptionList.OptionHighlighted)
    def look_closer(self) -> None:
        """Another line."""
        self.show_details()

    @on(Input.Submitted)
    @on(OptionList.OptionSelected)
    def choose(self, event: Message) -> None:
        """Enter, or a click."""
        event.stop()
        offer = self.chosen
        if self._is_path and (isinstance(offer, str) or isinstance(event, Input.Submitted)):
            self._load(self._typed)
        elif isinstance(offer, str):
            self.offers.found, self.offers.searched = [], offer
            self.status = f"Searching the hub for {offer} ..."
            self._run("search", ["models", "search", *offer.split(), "--json"])
            self.show_details()
        elif offer is not None:
            self._take_up(offer)

    def _load(self, folder: str) -> None:
        if is_model(local(folder)):
            self.dismiss(Offer(model=folder, family="", folder=folder))
        else:
            self.status = f"{folder} has no config.json; a checkpoint's folder is wanted."
            self.show_details()

    def _take_up(self, offer: Offer) -> None:
        download = self.downloads.get(offer.repo)
        if offer.folder:
            self.dismiss(offer)
        elif download and download.state == "done":
            self.dismiss(Offer(model=offer.repo, family=offer.family, folder=download.folder))
        elif not offer.repo:
            self.app.say(self._made(offer))
        elif download and download.state == "running":
            download.pause()
        elif download or self.asked == offer.repo:
            self.post_message(self.Wanted(offer.repo))
        else:
            self.asked = offer.repo
            if not offer.verdict:
                self._run("one", ["fit", offer.repo, "--json"])
        self.refresh_list()

    def action_move(self, lines: int) -> None:
        """Up or down, past the titles."""
        usable = [i for i, one in enumerate(self.shown) if one is not None]
        if usable and self.list.highlighted in usable:
            place = usable.index(self.list.highlighted) + lines
            self.list.highlighted = usable[min(max(place, 0), len(usable) - 1)]
            self.moved = True
        self.asked = ""

    def action_context(self) -> None:
        """The sums for another length of context."""
        self.context = (self.context + 1) % len(CONTEXTS)
        self._look()

    def action_close(self) -> None:
        """Back to the chat; downloads go on."""
        self.dismiss(None)


def _key(line: Offer | str | None) -> object:
    return line.name if isinstance(line, Offer) else line
