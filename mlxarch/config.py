"""config.json as a dataclass: one line a field, with the hub's spelling of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import reduce
from math import isfinite
from typing import Any, ClassVar, Self

from .errors import ConfigError


class _Missing:
    def __repr__(self) -> str:
        return "nothing"


MISSING: Any = _Missing()


# What a field's annotation promises, in words and as a test.
_KINDS: Mapping[Any, tuple[str, Callable[[Any], bool]]] = {
    int: ("a whole number from 1", lambda v: type(v) is int and v >= 1),
    float: ("a number", lambda v: type(v) in (int, float) and isfinite(v)),
    bool: ("true or false", lambda v: type(v) is bool),
    list[str]: (
        "a list of words",
        lambda v: type(v) is list and all(type(word) is str for word in v),
    ),
}


def hub(*keys: str, default: Any = MISSING) -> Any:
    """A field found in config.json under one of `keys`, the hub's spellings of it; dots go down.

    `default` is what transformers takes when the key is absent: a value, or a function of
    config.json less its nulls, which then also stands in for a null. Without it the key is
    required.
    """
    return field(metadata={"hub": keys, "default": default})


@dataclass(frozen=True, kw_only=True)
class Config:
    """Base of every architecture's config.

    `only` lists keys of which the port implements one value; any other is an error, because a
    switch that is ignored loads without complaint and answers wrongly. `kinds` does the same for
    the entries of `layer_types`.
    """

    only: ClassVar[Mapping[str, Any]] = {}
    kinds: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def from_hub(cls, raw: Mapping[str, Any]) -> Self:
        """Read config.json as transformers 4 or 5 wrote it.

        Raises: ConfigError if a key is missing, or asks for what is not ported.
        """
        for key, wanted in cls.only.items():
            if (found := _find(raw, key)) not in (MISSING, None, wanted):
                raise ConfigError(
                    f"{key} is {found!r} in config.json; this port implements only {wanted!r}."
                )
        values = {f.name: _read(raw, f.metadata["hub"], f.type) for f in fields(cls)}
        missing = []
        for f in fields(cls):
            values[f.name] = _fill(raw, values[f.name], f.metadata["default"])
            if values[f.name] is MISSING:
                missing.append(" or ".join(f.metadata["hub"]))
        if missing:
            kind = raw.get("model_type")
            raise ConfigError(f"config.json of model_type {kind!r} lacks {', '.join(missing)}.")
        if cls.kinds:
            _check_layers(values["layer_types"], values["depth"], cls.kinds)
        return cls(**values)

    def spelled_out(self) -> dict[str, Any]:
        """Every field under its first hub key, transformers 4's: what no reader has to guess."""
        return {f.metadata["hub"][0]: getattr(self, f.name) for f in fields(self)}


def _read(raw: Mapping[str, Any], keys: tuple[str, ...], kind: Any) -> Any:
    """What config.json has under `keys`: a value of the right kind, None or MISSING."""
    found = {key: _find(raw, key) for key in keys}
    values = [(key, value) for key, value in found.items() if value not in (MISSING, None)]
    for key, value in values:
        wanted, fits = _KINDS.get(kind, ("", lambda _: True))
        if not fits(value):
            raise ConfigError(f"{key} is {value!r} in config.json; {wanted} is wanted.")
        if value != values[0][1]:
            raise ConfigError(
                f"{values[0][0]} is {values[0][1]!r} in config.json but {key} is {value!r}; "
                "the two must agree."
            )
    if values:
        return values[0][1]
    return None if None in found.values() else MISSING


def _fill(raw: Mapping[str, Any], value: Any, default: Any) -> Any:
    """The value, or what stands in for a key that is absent or null; MISSING if nothing does."""
    if value is not MISSING and value is not None:
        return value
    if not callable(default):
        return default if value is MISSING else MISSING
    try:
        return default({key: value for key, value in raw.items() if value is not None})
    except KeyError:
        return MISSING


def _find(raw: Mapping[str, Any], key: str) -> Any:
    """`_find(raw, "a.b")` is raw["a"]["b"], or MISSING if either is absent."""
    try:
        return reduce(lambda node, part: node[part], key.split("."), raw)
    except (KeyError, TypeError):
        return MISSING


def _check_layers(layer_types: list[str], depth: int, kinds: tuple[str, ...]) -> None:
    if unknown := set(layer_types) - set(kinds):
        raise ConfigError(
            f"layer_types has {', '.join(sorted(unknown))}; this port knows {', '.join(kinds)}."
        )
    if len(layer_types) != depth:
        raise ConfigError(
            f"layer_types has {len(layer_types)} entries for {depth} layers; it needs one for each."
        )
