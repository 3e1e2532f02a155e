"""Models that may be fetched, in sizes for each amount of memory; known without a network."""

import tomllib
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from .fit import Cache, Form, Model


class Entry(NamedTuple):
    """A model of the ten families, and what it is good for."""

    model: Model
    use: str
    config: str  # of which release its figures are, as the tests call it


@cache
def entries() -> tuple[Entry, ...]:
    """All of them, smallest first."""
    text = files("mlxarch.app").joinpath("catalogue.toml").read_text(encoding="utf-8")
    return tuple(
        Entry(
            Model(
                cache=Cache(**found.pop("cache")),
                forms=tuple(Form(**form) for form in found.pop("forms")),
                source="catalogue",
                **found,
            ),
            use,
            config,
        )
        for found in tomllib.loads(text)["model"]
        for use, config in [(found.pop("use"), found.pop("config"))]
    )


def find(repo: str) -> Model | None:
    """The model of which a repository of the catalogue holds a form."""
    models = (entry.model for entry in entries())
    return next((m for m in models if repo in [form.repo for form in m.forms]), None)
