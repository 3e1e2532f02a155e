"""What a person has settled: config.toml, which they may edit and the chat adds to.

theme = "mlxarch-light"

[presets.letters]                  # how tokens are chosen, by name
temperature = 0.9

[personas.editor]                  # who the model is asked to be, by name
system = "You edit prose. Change as little as is needed."
preset = "precise"

[models."arcee-ai/Trinity-Mini"]   # what is kept for a model
temperature = 0.6
switches = { enable_thinking = false }
"""

import os
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from platformdirs import user_config_path

from mlxarch.errors import FormatError

from .sampling import Sampling

PRESETS = {
    "publisher": Sampling(),
    "greedy": Sampling(temperature=0.0),
    "precise": Sampling(temperature=0.3, top_p=0.9),
    "balanced": Sampling(temperature=0.7, top_p=0.95),
    "creative": Sampling(temperature=1.0, top_p=0.98, min_p=0.02),
}


@dataclass(frozen=True)
class Persona:
    """Who the model is asked to be."""

    system: str
    preset: str = ""  # how it chooses its tokens; empty leaves that as it is


PERSONAS = {
    "plain": Persona(""),
    "terse": Persona("Answer in as few words as the question needs."),
    "teacher": Persona("Explain step by step, with an example, to somebody new to the subject."),
    "reviewer": Persona(
        "You review code. Name each defect with its line and what it breaks; praise nothing.",
        "precise",
    ),
    "translator": Persona("Translate what you are given into English, and say nothing else."),
}

Check = Callable[[Any], bool]


def _number(least: float, most: float = sys.float_info.max, *, open_: bool = False) -> Check:
    def holds(value: Any) -> bool:
        known = isinstance(value, int | float) and not isinstance(value, bool)
        return known and least <= value <= most and not (open_ and value == least)

    return holds


def _count(least: int, most: float = float("inf")) -> Check:
    return lambda value: type(value) is int and least <= value <= most


# What each of a Sampling's fields may be, and in words.
LIMITS: dict[str, tuple[Check, str]] = {
    "max_tokens": (_count(1), "a whole number from 1 on"),
    "temperature": (_number(0), "a number from 0 on"),
    "top_p": (_number(0, 1, open_=True), "a number above 0, up to 1"),
    "seed": (_count(0, 2**32 - 1), "a whole number from 0 on"),
    "top_k": (_count(0), "a whole number from 0 on"),
    "min_p": (_number(0, 1), "a number from 0 to 1"),
    "repetition_penalty": (_number(0, open_=True), "a number above 0"),
    "thinking_tokens": (_count(0), "a whole number from 0 on"),
    "stop": (
        lambda value: isinstance(value, list) and all(isinstance(t, str) and t for t in value),
        "a list of texts",
    ),
    "switches": (lambda value: isinstance(value, dict), "a table"),
}


class Settings:
    """The file's contents, beside what comes with mlxarch."""

    def __init__(self, path: Path | None = None):
        """Raises: FormatError if the file is none of ours, with the place."""
        self.path = path or user_config_path("mlxarch") / "config.toml"
        raw = self._read()
        self.theme = _text(raw, "theme", self.path)
        self.presets = dict(PRESETS)
        for name, table in _tables(raw, "presets", self.path):
            self.presets[name] = checked(table, f"presets.{name}", self.path)
        self.personas = dict(PERSONAS)
        for name, table in _tables(raw, "personas", self.path):
            self.personas[name] = self._persona(name, table)
        self._models = {
            name: checked(table, f'models."{name}"', self.path)
            for name, table in _tables(raw, "models", self.path)
        }

    def of_model(self, model: str) -> Sampling:
        """What is kept for a model; nothing, if nothing is."""
        return self._models.get(model, Sampling())

    def keep(self, model: str, sampling: Sampling) -> None:
        """Keep this for a model, in the file too; a Sampling of nothing is forgotten.

        Raises: FormatError if the file has been broken meanwhile; OSError if it cannot be written.
        """
        self._models[model] = sampling
        values = {
            key: value for key, value in asdict(sampling).items() if value not in (None, [], {})
        }
        self._change(["models", model], values or None)

    def keep_theme(self, theme: str) -> None:
        """Keep the theme, in the file too.

        Raises: as `keep`.
        """
        self.theme = theme
        self._change(["theme"], theme)

    def _persona(self, name: str, table: Mapping[str, Any]) -> Persona:
        where = f"personas.{name}"
        for key, value in table.items():
            if key not in ("system", "preset"):
                raise FormatError(f"{self.path}: {where} has no {key!r}; it has system and preset.")
            if not isinstance(value, str):
                raise FormatError(f"{self.path}: {where}.{key} is {value!r}; wanted is a text.")
        if (preset := table.get("preset", "")) and preset not in self.presets:
            known = ", ".join(self.presets)
            raise FormatError(f"{self.path}: {where}.preset is {preset!r}; there are {known}.")
        return Persona(table.get("system", ""), preset)

    def _read(self) -> dict[str, Any]:
        try:
            return tomllib.loads(self.path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise FormatError(
                f"{self.path} cannot be read: {error}. Mend it, or move it away."
            ) from error

    def _change(self, place: list[str], value: Any) -> None:
        """Set one thing in the file and leave everything else, comments too, as it is."""
        import tomlkit

        self._read()  # what is broken is not written over
        text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        document = tomlkit.parse(text)
        table: Any = document
        for key in place[:-1]:
            table = table.setdefault(key, tomlkit.table(is_super_table=True))
        if value is None:
            table.pop(place[-1], None)
        else:
            table[place[-1]] = value
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = self.path.with_suffix(".new")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(tomlkit.dumps(document))
        fresh.replace(self.path)


def checked(table: Mapping[str, Any], where: str, path: Path | str) -> Sampling:
    """A Sampling from a table of the file.

    Raises: FormatError for a name or a value that it cannot have.
    """
    names = [field.name for field in fields(Sampling)]
    for key, value in table.items():
        if key not in names:
            raise FormatError(f"{path}: {where} has no {key!r}; it has {', '.join(names)}.")
        holds, words = LIMITS[key]
        if not holds(value):
            raise FormatError(f"{path}: {where}.{key} is {value!r}; wanted is {words}.")
    return Sampling(**table)


def merged(below: Sampling, above: Sampling) -> Sampling:
    """`above` where it says something, else `below`."""
    said = {key: value for key, value in vars(above).items() if value not in (None, [], {})}
    return replace(below, **said)


def _text(raw: Mapping[str, Any], key: str, path: Path) -> str:
    if not isinstance(value := raw.get(key, ""), str):
        raise FormatError(f"{path}: {key} is {value!r}; wanted is a text.")
    return value


def _tables(raw: Mapping[str, Any], key: str, path: Path) -> list[tuple[str, Mapping[str, Any]]]:
    found = raw.get(key, {})
    if not isinstance(found, dict) or not all(isinstance(t, dict) for t in found.values()):
        raise FormatError(f"{path}: {key} holds no tables; wanted is [{key}.NAME].")
    return list(found.items())
