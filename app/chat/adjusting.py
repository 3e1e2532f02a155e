"""Settings of the conversation: from their screen, and from commands."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from mlxarch.errors import MlxarchError

from ..sampling import Sampling
from ..settings import LIMITS, Settings, merged
from .base import Base, Refused, brief
from .popup import Word
from .settings import Choices, SettingsScreen, parsed

FIELDS = {name: limit for name, limit in LIMITS.items() if name != "switches"}
NOTHING = "nothing before the conversation"


class Adjusting(Base):
    """Says who the model is asked to be and how it chooses its tokens."""

    settings: Settings
    wanted: Sampling  # on the command line
    model: str

    def words(self, among: str, typed: str) -> Iterable[Word]:
        """Also personas, presets and settings."""
        if among == "personas":
            personas = self.settings.personas.items()
            return [Word(name, persona.system or NOTHING) for name, persona in personas]
        if among == "presets":
            presets = self.settings.presets.items()
            return [Word(name, described(preset)) for name, preset in presets]
        return self._settings(typed) if among == "settings" else super().words(among, typed)

    def _settings(self, typed: str) -> list[Word]:
        """Names of settings, or what a name that is typed may be followed by."""
        switches = self._switches
        name, space, _ = typed.partition(" ")
        if space and name in switches:
            return [Word(f"{name} {value}", "") for value in switches[name]]
        if space and name in FIELDS:
            return [Word(typed, FIELDS[name][1])]
        wanted = {name: words for name, (_, words) in FIELDS.items()}
        wanted |= {name: " or ".join(map(str, values)) for name, values in switches.items()}
        said = {**_said(self.session.sampling), **self.session.sampling.switches}
        now = {name: f", now {value}" for name, value in said.items()}
        return [Word(name, words + now.get(name, ""), open=True) for name, words in wanted.items()]

    @property
    def _switches(self) -> dict[str, list[Any]]:
        """Of the model's chat template, with their values."""
        ready = self.session.ready
        return {each["name"]: each["values"] for each in ready.switches} if ready else {}

    def action_settings(self) -> None:
        """The screen with all of them."""
        ready = self.session.ready
        choices = Choices(self.session.system or "", self.session.sampling)
        screen = SettingsScreen(
            self.model,
            choices,
            self.settings,
            ready.defaults if ready else {},
            ready.switches if ready else [],
        )
        self.push_screen(screen, self.adjust)

    def adjust(self, choices: Choices | None) -> None:
        """Take over what was chosen there; the next answer is the first that knows."""
        if choices is None:
            return
        self.session.system, self.session.sampling = choices.system or None, choices.sampling
        if choices.keep:
            self._keep(lambda: self.settings.keep(self.model, choices.sampling))

    def action_preset(self, name: str) -> None:
        """How tokens are chosen, by a name."""
        if name not in self.settings.presets:
            known = ", ".join(self.settings.presets)
            raise Refused(f"There is no preset {brief(name)}; there are {known}.")
        preset, before = self.settings.presets[name], self.session.sampling
        kept = ("seed", "max_tokens", "stop", "switches", "thinking_tokens")
        self.session.sampling = replace(preset, **{key: getattr(before, key) for key in kept})
        self.say(f"From the next answer on: {name}, {described(self.session.sampling)}.")

    def action_persona(self, name: str) -> None:
        """Who the model is asked to be, by a name."""
        persona = self.settings.personas.get(name)
        if persona is None:
            known = ", ".join(self.settings.personas)
            raise Refused(f"There is no persona {brief(name)}; there are {known}.")
        self.session.system = persona.system or None
        if persona.preset:
            self.action_preset(persona.preset)
        self.say(f"From the next answer on, the model is told: {persona.system or 'nothing'}")

    def action_system(self, text: str = "") -> None:
        """What the model is told before the conversation; shown, if nothing else is said."""
        if text:
            self.session.system = text
        self.say(f"The model is told: {self.session.system or NOTHING}")

    def action_set(self, words: str = "") -> None:
        """One setting by its name: a field, or a switch of the model's template; alone, all."""
        if not words:
            self.action_settings()
            return
        name, _, text = words.replace("=", " ", 1).partition(" ")
        switches = self._switches
        if name in switches:
            self._switch(name, text.strip(), switches[name])
        elif name in FIELDS:
            self._field(name, text.strip())
        else:
            known = ", ".join([*FIELDS, *switches])
            raise Refused(f"There is no setting {brief(name)}; there are {known}.")

    def _field(self, name: str, text: str) -> None:
        value: Any = parsed(name, text) if text else getattr(Sampling(), name)
        holds, words = FIELDS[name]
        if text and not holds(value):
            raise Refused(f"{name} is {brief(text)!r}; wanted is {words}.")
        self.session.sampling = replace(self.session.sampling, **{name: value})
        self.say(f"From the next answer on: {described(self.session.sampling)}.")

    def _switch(self, name: str, text: str, values: list[Any]) -> None:
        chosen = [value for value in values if str(value).lower() == text.lower()]
        if not chosen:
            wanted = " or ".join(map(str, values))
            raise Refused(f"{name} is {brief(text)!r}; wanted is {wanted}.")
        switches = {**self.session.sampling.switches, name: chosen[0]}
        self.session.sampling = replace(self.session.sampling, switches=switches)
        self.say(f"From the next answer on: {described(self.session.sampling)}.")

    def recall_settings(self) -> None:
        """What is kept for the model, and above it what the command line said."""
        self.session.sampling = merged(self.settings.of_model(self.model), self.wanted)

    def recall_theme(self, otherwise: str) -> None:
        """The theme that was chosen last, from now on kept for the next time."""
        known = self.settings.theme in self.available_themes
        self.theme = self.settings.theme if known else otherwise
        self.watch(self, "theme", self._keep_theme, init=False)

    def _keep_theme(self, theme: str) -> None:
        if theme != self.settings.theme:
            self._keep(lambda: self.settings.keep_theme(theme))

    def _keep(self, write: Callable[[], None]) -> None:
        try:
            write()
        except (OSError, MlxarchError) as error:
            self.say(f"Nothing was kept. {error}", warning=True)


def described(sampling: Sampling) -> str:
    """What a Sampling says, in words."""
    said = (f"{name} {value}" for name, value in _said(sampling).items())
    return ", ".join(said) or "the publisher's defaults"


def _said(sampling: Sampling) -> dict[str, Any]:
    return {key: value for key, value in vars(sampling).items() if value not in (None, [], {})}
