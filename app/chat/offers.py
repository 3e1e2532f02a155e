"""Models to choose from and what is being fetched, as data; `picker.py` shows it."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from mlxarch.words import many

from ..children import Child, Starter
from .figures import duration, size

CONTEXTS = (8_192, 32_768, 131_072)  # tokens
SIGNS = {"fits": "●", "tight": "◐", "too large": "○", "": "·"}


@dataclass(frozen=True, kw_only=True)
class Offer:
    """One form of a model on this machine, as `mlxarch fit --json` tells it; bytes and tokens.

    Of what was found on the hub by its name, little is known until it is asked for.
    """

    model: str
    family: str
    repo: str = ""  # where it can be had
    folder: str = ""  # where it lies, if it is here
    form: str = ""
    parameters: int = 0
    active: int = 0
    disk: int = 0
    weights: int = 0
    cache: int = 0
    working: int = 0
    together: int = 0
    memory: int = 0
    verdict: str = ""
    suggested: bool = False  # of a model's forms
    context: int = 0
    at_most_tokens_per_second: float = 0.0
    bandwidth: float = 0.0

    @classmethod
    def of(cls, told: dict[str, Any]) -> "Offer":
        """What a line of JSON tells."""
        return cls(**{key: told[key] for key in cls.__dataclass_fields__ if key in told})

    @property
    def roomy(self) -> bool:
        """Whether it is known to fit."""
        return self.verdict in ("fits", "tight")

    @property
    def name(self) -> str:
        """What it is known by: its repository, if it has one."""
        return self.repo or self.model

    @property
    def outcome(self) -> str:
        """The verdict, and the bound on its speed, which is an estimate."""
        if not self.verdict:
            return ""
        text = f"{self.verdict}: {size(self.together)} of {size(self.memory)}"
        if not self.roomy:
            return text
        rate = self.at_most_tokens_per_second
        written = f"{rate:,.0f}" if rate >= 9.95 else f"{rate:.1f}"
        return f"{text} · at most {written} tokens/s (estimate)"

    @property
    def sum(self) -> str:
        """How it comes about."""
        if not self.verdict:
            return ""
        return (
            f"{size(self.weights)} weights + {size(self.cache)} cache of {self.context:,} tokens "
            f"+ {size(self.working)} to read"
        )

    @property
    def about(self) -> str:
        """What it is."""
        active = f", {many(self.active)} active" if 0 < self.active < 0.8 * self.parameters else ""
        parts = [self.family, f"{many(self.parameters)} parameters{active}", self.form]
        return " · ".join(part for part in parts if part and not part.startswith("0 "))


@dataclass
class Offers:
    """All that mlxarch's commands have told of so far."""

    here: list[Offer] = field(default_factory=list)
    afar: list[list[Offer]] = field(default_factory=list)  # the forms of each model
    found: list[Offer] = field(default_factory=list)  # on the hub
    searched: str = ""  # the words they were searched by

    def add(self, told: dict[str, Any]) -> None:
        """A line of `fit --json`."""
        offer = Offer.of(told)
        if told["here"]:
            self.here.append(offer)
        elif self.afar and self.afar[-1][0].model == offer.model:
            self.afar[-1].append(offer)
        else:
            self.afar.append([offer])

    def add_found(self, told: dict[str, Any]) -> None:
        """A line of `models search --json`."""
        name, disk = told["repo"], told.get("bytes") or 0
        self.found.append(Offer(model=name, family=told["family"], repo=name, disk=disk))

    def know(self, told: dict[str, Any]) -> None:
        """A line of `fit REPO --json` about one that was found; forms to be made have no `repo`."""
        offer = Offer.of(told)
        self.found = [offer if one.repo == offer.repo else one for one in self.found]

    def origin(self, offer: Offer) -> str:
        """Where that may be fetched which a form without a repository is made of."""
        same = (one.repo for forms in self.afar for one in forms if one.model == offer.model)
        return next(filter(None, same), "")

    def titled(self, words: str) -> list[tuple[str, list[Offer]]]:
        """What of it some words describe, each model once, under a title."""
        names = {offer.name for offer in self.here}
        # Of a model that is still being told of, one of its forms.
        forms = [max(forms, key=lambda form: form.suggested) for forms in self.afar]
        afar = [one for one in _described(words, forms) if one.name not in names]
        names |= {one.name for one in afar}
        found = [one for one in self.found if one.name not in names]
        # The hub may have found them by more than their names.
        found = found if words.lower() == self.searched else _described(words, found)
        return [
            ("Here", _described(words, self.here)),
            ("To be fetched", afar),
            ("On the hub", found),
        ]


def _described(words: str, offers: Iterable[Offer]) -> list[Offer]:
    return [
        offer
        for offer in offers
        if all(
            word in f"{offer.name} {offer.model} {offer.family}".lower()
            for word in words.lower().split()
        )
    ]


State = Literal["running", "paused", "failed", "done"]


@dataclass
class Download:
    """A repository on its way into the hub's cache; a process fetches it."""

    repo: str
    changed: Callable[[], object]  # called from the thread that reads the process
    clock: Callable[[], float] = time.monotonic
    state: State = "paused"
    done: int = 0  # bytes
    total: int = 0
    folder: str = ""
    reason: str = ""  # why it failed
    rate: float = 0.0  # bytes a second
    told: bool = False  # its end
    _child: Child | None = field(default=None, repr=False)
    _began: tuple[float, int] | None = None  # when, and how much was there

    def go(self, start: Starter) -> None:
        """Begin, or go on."""
        self.state, self.reason, self._began, self.told = "running", "", None, False
        self._child = start(["models", "fetch", self.repo, "--json"], self._take, self._ended)

    def pause(self) -> None:
        """Stop for now; what is here stays."""
        if self.state == "running" and self._child:
            self.state = "paused"
            self._child.stop()

    @property
    def progress(self) -> str:
        """How far it is, in words."""
        if not self.total:
            return {"failed": self.reason, "paused": "Paused."}.get(
                self.state, "Asking the hub ..."
            )
        there = f"{size(self.done)} of {size(self.total)}"
        if self.state == "failed":
            return f"{there} are here. {self.reason}"
        if self.state == "paused":
            return f"Paused at {there}."
        left = f", {size(int(self.rate))}/s" if self.rate else ""
        if self.rate and self.total > self.done:
            left += f", about {duration((self.total - self.done) / self.rate)} left"
        return f"Fetching, {there}{left}."

    def _take(self, told: dict[str, Any]) -> None:
        if told.get("event") == "fetch":
            self.done, self.total = told["done"], told["total"]
            now = self.clock()
            if self._began is None:
                self._began = now, self.done
            elif now > self._began[0]:
                self.rate = (self.done - self._began[1]) / (now - self._began[0])
        elif told.get("event") == "done":
            self.state, self.folder = "done", told["folder"]
        self.changed()

    def _ended(self, code: int, reason: str) -> None:
        if self.state == "running":
            self.state, self.reason = "failed", reason or f"It ended with exit code {code}."
        self.changed()
