"""Another model for the conversation, and models that are fetched while it goes on."""

import time
from collections.abc import Callable, Iterable
from typing import Any

from textual import on
from textual.message import Message
from textual.widgets import TextArea

from mlxarch.files import is_model, local

from ..children import Child, Starter
from .adjusting import Adjusting
from .figures import size
from .lifecycle import Lifecycle
from .offers import Download, Offer
from .picker import Picker
from .popup import CommandList, Word
from .session import Phase
from .transcript import plain


class Choosing(Lifecycle, Adjusting):
    """Loads and fetches models."""

    start_child: Starter
    clock: Callable[[], float] = time.monotonic
    downloads: dict[str, Download]
    here: list[Offer] = []  # at the last look
    looking: Child | None = None  # since the name of a model is being typed

    class Looked(Message):
        """What models are here."""

        def __init__(self, here: list[Offer]):
            super().__init__()
            self.here = here

    class Fetched(Message):
        """A download has come further, or ended."""

        def __init__(self, download: Download):
            super().__init__()
            self.download = download

    def possible(self) -> dict[str, bool]:
        """No other model while this one answers."""
        return {**super().possible(), "models": not self.session.busy}

    def words(self, among: str, typed: str) -> Iterable[Word]:
        """Also models that are here."""
        if among != "models":
            return super().words(among, typed)
        return [Word(one.name, f"{one.about} · {size(one.disk)}") for one in self.here]

    @on(TextArea.Changed, "#composer")
    def look_for_models(self) -> None:
        """Once for each name that is typed: something may have come since."""
        typed = self.composer.text.startswith("/model ") and self.check_action("models", ())
        if typed and not self.looking:
            told: list[dict[str, Any]] = []
            self.looking = self.start_child(
                ["fit", "--json"], told.append, lambda code, _: self._looked(code, told)
            )
        elif self.looking and not typed:
            self.looking.stop()
            self.looking = None

    def _looked(self, code: int, told: list[dict[str, Any]]) -> None:
        if code == 0:
            self.post_message(self.Looked([Offer.of(one) for one in told if one["here"]]))

    @on(Looked)
    def offer_models(self, looked: Looked) -> None:
        """Complete the name that is being typed."""
        self.here = looked.here
        for commands in self.query(CommandList):  # none while the chat is being closed
            commands.follow(self.composer.text)

    async def action_models(self, words: str = "") -> None:
        """The models that are here and those that may be fetched."""
        folder = local(words)
        known = next((one for one in self.here if one.name == words), None)
        if known:
            self.take_offer(known)
            return
        if words and is_model(folder):
            self.load_model(str(folder), folder.name)
            return
        await self.push_screen(Picker(self.start_child, self.downloads, words), self.take_offer)

    def take_offer(self, offer: Offer | None) -> None:
        """What was chosen on that screen."""
        if offer is not None:
            self.load_model(offer.folder, offer.name)

    def load_model(self, folder: str, name: str) -> None:
        """Have another model loaded; the conversation goes on with it."""
        if self.session.busy:
            self.say("An answer is being written; Esc stops it.", warning=True)
            return
        self.model = self.session.model = plain(name)
        self.status.model = self.model
        self.recall_settings()
        self.session.switch(str(local(folder)))
        if self.session.phase is Phase.GONE:
            self.action_restart()
        else:
            self.session.load()
        self.status.refresh()
        self.show_now()

    @on(Picker.Wanted)
    def fetch_model(self, wanted: Picker.Wanted) -> None:
        """Download a repository, or go on with it."""
        repo = wanted.repo
        download = self.downloads.get(repo)
        if download is None:
            download = self.downloads[repo] = Download(
                repo, lambda: self.post_message(self.Fetched(self.downloads[repo])), self.clock
            )
        if download.state != "running":
            download.go(self.start_child)
        self._show_downloads()

    @on(Fetched)
    def follow_download(self, fetched: Fetched) -> None:
        """Show how far it is; its end is said."""
        download = fetched.download
        if download.state in ("done", "failed") and not download.told:
            download.told = True
            self.say(
                f"{download.repo} is here. F2 and Enter load it."
                if download.state == "done"
                else f"{download.repo}: {plain(download.reason)}",
                warning=download.state == "failed",
            )
        self._show_downloads()

    def _show_downloads(self) -> None:
        if isinstance(self.screen, Picker):
            self.screen.refresh_list()
        running = [one for one in self.downloads.values() if one.state == "running"]
        total = sum(one.total for one in running)
        share = sum(one.done for one in running) / total if total else 0.0
        self.status.fetching = share if running else None
        self.status.refresh()

    def on_unmount(self) -> None:
        """What is being fetched goes on another time."""
        if self.looking:
            self.looking.stop()
        for download in self.downloads.values():
            download.pause()
