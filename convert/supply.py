"""The shards of a source: fetched before they are needed, deleted when nothing needs them."""

import os
import threading
from collections.abc import Callable, Collection
from pathlib import Path

from . import download, hub
from .plan import Plan

_AHEAD = 1  # shards fetched beyond the one that is asked for
_TICK = 0.2  # seconds between reports


class Supply:
    """Gives the file of a shard, and waits for it where it has to be fetched.

    A thread fetches shards in the order in which they are needed, while earlier ones are
    converted.

    Args:
        done: Output files that are there already, for which nothing has to be fetched.
        report: Called with a shard's name, how many of its bytes are there, and how many it has,
            while somebody waits for it.
    """

    def __init__(self, plan: Plan, done: Collection[str], report: Callable[[str, int, int], None]):
        self._source, self._report = plan.source, report
        self._last = {shard: i for i, used in enumerate(plan.uses) for shard in used}
        self._order = list(
            dict.fromkeys(
                used
                for shard, uses in zip(plan.shards, plan.uses, strict=True)
                if shard.file not in done
                for used in sorted(uses)
            )
        )
        self._here: dict[Path, Path] = {}
        self._error: BaseException | None = None
        self._there = 0  # bytes of the shard that is being fetched
        self._wanted = 1 + _AHEAD
        self._changed = threading.Condition()
        if self._source.folder is None:
            # A daemon: Ctrl-C does not wait for gigabytes. What is fetched so far is kept.
            threading.Thread(target=self._fetch, name="fetch", daemon=True).start()

    def find(self, shard: Path) -> Path:
        """The file of a shard.

        Raises: HubError, DoesNotFit if it cannot be fetched.
        """
        if self._source.folder is not None:
            return shard
        with self._changed:
            self._wanted = max(self._wanted, self._order.index(shard) + 1 + _AHEAD)
            self._changed.notify_all()
        while True:
            with self._changed:
                if shard in self._here:
                    return self._here[shard]
                if self._error is not None:
                    raise self._error
                self._changed.wait(_TICK)
            self._report(shard.as_posix(), self._there, self._source.shards[shard])

    def release(self, index: int) -> list[Path]:
        """Delete the shards that nothing after the output file number `index` needs."""
        gone = []
        for shard in sorted(shard for shard, last in self._last.items() if last == index):
            file: Path | None = shard
            if self._source.folder is None:
                repo, revision = str(self._source.repo), str(self._source.revision)
                file = hub.cached(repo, shard.as_posix(), revision)
            if file is not None and os.path.lexists(file):
                hub.forget(file)
                gone.append(file)
        return gone

    def _fetch(self) -> None:
        repo, revision = str(self._source.repo), str(self._source.revision)
        for i, shard in enumerate(self._order):
            with self._changed:
                self._changed.wait_for(lambda i=i: i < self._wanted)
            self._there = 0
            try:
                file = download.fetch_file(repo, shard.as_posix(), revision, self._count)
            except BaseException as error:
                with self._changed:
                    self._error = error
                    self._changed.notify_all()
                return
            with self._changed:
                self._here[shard] = file
                self._changed.notify_all()

    def _count(self, there: int) -> None:
        self._there = there
