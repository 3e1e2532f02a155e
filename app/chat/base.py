"""What the parts of the app share; each part is a file of its own, about one subject."""

from collections.abc import Iterable
from typing import Any

from textual.app import App

from mlxarch.errors import MlxarchError

from .composer import Composer
from .keys import Keys
from .popup import Word
from .session import Session
from .speed import SpeedPanel
from .status import StatusLine
from .thread import TranscriptView
from .transcript import Turn, plain

LONGEST = 500  # characters that are said in passing
BRIEF = 60  # of what a person typed, said again


class Refused(MlxarchError):  # noqa: N818
    """A command is not done; why, in words for the person."""


class Base(App[None], inherit_bindings=False):
    """The pieces that every part of the app may use."""

    session: Session
    transcript: TranscriptView
    composer: Composer
    panel: SpeedPanel
    status: StatusLine
    keys: Keys
    editing: Turn | None = None  # whose question is in the input

    def possible(self) -> dict[str, bool]:
        """Actions by name, and whether they can be done now; what is missing always can."""
        return {}

    def words(self, among: str, typed: str) -> Iterable[Word]:
        """What may follow a command, by its `Action.among` and what is typed of it."""
        return ()

    def say(self, text: str, *, warning: bool = False) -> None:
        """Tell the person something in passing."""
        text = plain(brief(text, LONGEST))
        self.notify(text, severity="warning" if warning else "information", markup=False)

    async def loaded(self) -> None:
        """A model is there to be asked, or could not be loaded."""

    async def answered(self, turn: Turn) -> None:
        """An answer has ended, one way or another."""

    def keep_draft(self) -> None:
        """What is being written is kept."""

    def show_now(self) -> None:
        """Bring figures, footer and the like up to the session."""

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only what can be done now is in the footer, the palette and the commands."""
        return self.possible().get(action, True)

    async def carry_out(self, name: str, *arguments: Any) -> None:
        """Do an action of the registry."""
        done = getattr(self, f"action_{name}")(*arguments)
        if done is not None:
            await done


def brief(text: str, most: int = BRIEF) -> str:
    """A text of at most so many characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def numbered(text: str, most: int) -> int:
    """The number that was given with a command.

    Raises: Refused if it is none from 1 to `most`.
    """
    if not (text.isdecimal() and len(text) <= len(str(most)) and 0 < int(text) <= most):
        wanted = "1" if most == 1 else f"a number from 1 to {most}"
        raise Refused(f"{brief(text)} is not there; wanted is {wanted}.")
    return int(text)
