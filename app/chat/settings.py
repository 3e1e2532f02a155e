"""The screen where a person says who the model is asked to be and how it chooses its tokens."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Checkbox, Input, Label, Select, Static, TextArea

from ..sampling import Sampling
from ..settings import LIMITS, Persona, Settings, merged

# The fields of one line each: name, label, what stands there while nothing is said.
FIELDS = (
    ("temperature", "Temperature", "0: always the likeliest"),
    ("top_p", "Top-p", "1"),
    ("top_k", "Top-k", "0: all"),
    ("min_p", "Min-p", "0"),
    ("repetition_penalty", "Repetition penalty", "1"),
    ("max_tokens", "Longest answer, tokens", "until the model stops"),
    ("thinking_tokens", "Longest thinking, tokens", "until the model stops"),
    ("seed", "Seed", "another answer each time"),
    ("stop", "Stop texts, with | between", "none"),
)
OWN = "own"  # neither a preset's nor a persona's
HINT = "Tab next · Ctrl+S applies · Esc leaves all as it was"


@dataclass(frozen=True)
class Choices:
    """What the screen is about, and what it is left with."""

    system: str
    sampling: Sampling
    keep: bool = False  # for this model, in the file


class Tick(Checkbox):
    """A box that has a tick or none; Textual's differ in colour alone."""

    def render(self) -> Content:
        """The box and its label."""
        label = self.label.pad(1, 1).stylize_before(self.get_visual_style("toggle--label"))
        return Content.assemble("[✓]" if self.value else "[ ]", label)


class SettingsScreen(ModalScreen[Choices | None]):
    """Dismissed with what was applied, or None.

    Args:
        defaults: The publisher's, by a field's name.
        switches: Of the model's chat template, as `Ready.switches` has them.
    """

    BINDINGS = [
        Binding("escape", "dismiss", "Close"),
        Binding("ctrl+s,f3", "apply", "Apply", priority=True),
    ]

    def __init__(
        self,
        model: str,
        choices: Choices,
        settings: Settings,
        defaults: Mapping[str, Any],
        switches: list[dict[str, Any]],
    ):
        super().__init__()
        self.model, self.choices, self.settings = model, choices, settings
        self.defaults, self.switches = defaults, switches

    def compose(self) -> ComposeResult:
        """A form, as long as it needs to be."""
        sampling = self.choices.sampling
        with VerticalScroll(id="settings", can_focus=False) as form:
            form.border_title = f"Settings · {self.model}"
            form.border_subtitle = HINT
            yield Label("What the model is told before the conversation")
            yield TextArea(self.choices.system, id="system", compact=True)
            persona = next(
                (
                    n
                    for n, one in self.settings.personas.items()
                    if one.system == self.choices.system
                ),
                OWN,
            )
            yield from _row("Persona", _choice("persona", self.settings.personas, persona))
            yield from _row("Preset", _choice("preset", self.settings.presets, self._preset()))
            for name, label, empty in FIELDS:
                said = _written(getattr(sampling, name))
                default = self.defaults.get(name)
                hint = empty if default is None else f"{default:g}, the publisher's"
                yield from _row(label, Input(said, placeholder=hint, id=name, compact=True))
            for switch in self.switches:
                chosen = sampling.switches.get(switch["name"], switch["values"][0])
                values = [str(value) for value in switch["values"]]
                yield from _row(switch["name"], _choice(_id(switch), values, str(chosen)))
            yield Tick("Keep this for the model", id="keep", compact=True)
            yield Static(id="wrong")

    def on_mount(self) -> None:
        """Where most come to change something."""
        self.query_one("#temperature").focus()

    @on(Select.Changed, "#persona")
    def become(self, event: Select.Changed) -> None:
        """Another persona: its words, and how it chooses its tokens."""
        persona = self.settings.personas.get(str(event.value), Persona(""))
        if event.value == OWN or persona.system == self.query_one("#system", TextArea).text:
            return
        self.query_one("#system", TextArea).text = persona.system
        if persona.preset:
            self.query_one("#preset", Select).value = persona.preset

    @on(Select.Changed, "#preset")
    def fill(self, event: Select.Changed) -> None:
        """Another preset: its numbers, in place of those that are there."""
        if event.value == OWN or event.value == self._preset():
            return
        preset = self.settings.presets[str(event.value)]
        for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty"):
            self.query_one(f"#{name}", Input).value = _written(getattr(preset, name))

    def _preset(self) -> str:
        """The preset that the form's numbers are."""
        sampling = self.choices.sampling if not self.is_mounted else self._read()
        same = replace(
            sampling, seed=None, max_tokens=None, stop=[], switches={}, thinking_tokens=None
        )
        return next((n for n, one in self.settings.presets.items() if one == same), OWN)

    def action_apply(self) -> None:
        """Take it all over, or say what cannot be."""
        if wrong := list(self._wrong()):
            self.query_one("#wrong", Static).update(Content.styled("\n".join(wrong), "$text-error"))
            return
        system = self.query_one("#system", TextArea).text.strip()
        keep = self.query_one("#keep", Checkbox).value
        self.dismiss(Choices(system, self._read(), keep))

    def _wrong(self) -> Iterator[str]:
        for name, label, _ in FIELDS:
            text = self.query_one(f"#{name}", Input).value
            holds, words = LIMITS[name]
            if text.strip() and not holds(parsed(name, text)):
                yield f"{label} is {text.strip()!r}; wanted is {words}."

    def _read(self) -> Sampling:
        """What stands in the form; a field that says nothing usable is left to the publisher."""
        values: dict[str, Any] = {}
        for name, _, _ in FIELDS:
            value = parsed(name, self.query_one(f"#{name}", Input).value)
            if LIMITS[name][0](value):
                values[name] = value
        switches = {}
        for switch in self.switches:
            chosen = self.query_one(f"#{_id(switch)}", Select).value
            value = next(v for v in switch["values"] if str(v) == chosen)
            if value != switch["values"][0]:
                switches[switch["name"]] = value
        return merged(Sampling(), Sampling(**values, switches=switches))


def _row(label: str, widget: Input | Select[str]) -> ComposeResult:
    with Horizontal(classes="row"):
        yield Label(label)
        yield widget


def _choice(name: str, values: Mapping[str, object] | list[str], chosen: str) -> Select[str]:
    names = list(values) if chosen in values else [chosen, *values]
    return Select(
        [(value, value) for value in names],
        value=chosen,
        allow_blank=False,
        id=name,
        compact=True,
    )


def _id(switch: Mapping[str, Any]) -> str:
    return f"switch-{switch['name']}"


def _written(value: object) -> str:
    """A field's value as it stands in the form."""
    if value is None:
        return ""
    if isinstance(value, list):
        return "|".join(str(text).replace("\n", "\\n") for text in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def parsed(name: str, text: str) -> object:
    """What a text stands for as a field; the text itself, where it is nothing a field can be."""
    if name == "stop":
        return [part.replace("\\n", "\n") for part in text.split("|") if part]
    text = text.strip()
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
