"""How actions are reached: commands after a slash, the palette, the help, Ctrl+C."""

from collections.abc import Callable, Iterable

from textual import on
from textual.app import SystemCommand
from textual.screen import Screen
from textual.widgets import TextArea

from .actions import ACTIONS, command
from .base import Base, Refused, brief
from .composer import Composer
from .popup import CommandList, Word
from .screens import Help

ANYTIME = {"stop", "unqueue", "unfold", "think", "code", "restart"}  # if there is something
TWICE = 2.0  # seconds between two Ctrl+C that end the chat


class Commanding(Base):
    """Finds the action that somebody asks for by name."""

    clock: Callable[[], float]
    interrupted: float | None = None  # when Ctrl+C was pressed last

    def get_system_commands(self, screen: Screen) -> Iterable[SystemCommand]:
        """The palette: what is possible now."""
        for action in ACTIONS:
            if action.palette and self.check_action(action.name, ()):
                run = getattr(self, f"action_{action.name}")
                yield SystemCommand(action.title or action.label, action.help, run)

    @on(TextArea.Changed, "#composer")
    def offer_commands(self) -> None:
        """Commands are listed as one types."""
        for commands in self.query(CommandList):  # none while the chat is being closed
            commands.follow(self.composer.text)

    @on(CommandList.Chosen)
    def choose_command(self, chosen: CommandList.Chosen) -> None:
        """A line of the list: done at once, unless something has to follow it."""
        self.composer.rewrite(chosen.line.text)
        if not (chosen.complete or chosen.line.open):
            self.composer.send()
        self.composer.focus()

    @on(Composer.Commanded)
    async def obey(self, commanded: Composer.Commanded) -> None:
        """A command as it was typed; one that is not done is given back."""
        word, _, argument = commanded.text[1:].partition(" ")
        try:
            await self._command(word, self.composer.pastes.whole(argument).strip())
        except Refused as why:
            self.say(str(why), warning=True)
            self.composer.put_back(commanded.text)

    async def _command(self, word: str, argument: str) -> None:
        """Carry out a command.

        Raises: Refused, with the reason.
        """
        action = command(word)
        if action is None:
            raise Refused(
                f"There is no command /{brief(word)}. F1 lists them; a second / or a space before "
                "it sends it as text."
            )
        if not self.check_action(action.name, ()):
            wait = self.session.busy and word not in ANYTIME
            why = "waits until the answer has ended; Esc stops it" if wait else "has nothing to do"
            raise Refused(f"/{word} {why}.")
        if argument and not action.argument:
            raise Refused(f"/{word} takes nothing after it.")
        if action.needs and not argument:
            raise Refused(f"Wanted is {action.usage}.")
        await self.carry_out(action.name, *([argument] if argument else []))

    def action_commands(self) -> None:
        """Begin a command, for a click on the footer; the palette, where something is written."""
        if self.composer.text:
            self.action_command_palette()
            return
        self.composer.focus()
        self.composer.rewrite("/")

    def words(self, among: str, typed: str) -> Iterable[Word]:
        """Also themes."""
        if among != "themes":
            return super().words(among, typed)
        return [
            Word(name, "dark" if theme.dark else "light")
            for name, theme in sorted(self.available_themes.items())
        ]

    def action_theme(self, name: str = "") -> None:
        """Other colours: by name, or chosen while one sees them."""
        if not name:
            self.search_themes()
        elif name in self.available_themes:
            self.theme = name
        else:
            known = ", ".join(sorted(self.available_themes))
            raise Refused(f"There is no theme {brief(name)!r}; there are {known}.")

    def action_help(self) -> None:
        """Show keys, commands and figures."""
        self.push_screen(Help())

    def action_interrupt(self) -> None:
        """Ctrl+C, where it copies nothing: stop the answer, and the second time end the chat."""
        now, before = self.clock(), self.interrupted
        self.interrupted = now
        if before is not None and now - before <= TWICE:
            self.exit(return_code=130)
            return
        stopped = self.session.busy
        self.session.stop()
        self.say(f"{'Stopping. ' if stopped else ''}Ctrl+C again ends the chat.")
        self.show_now()
