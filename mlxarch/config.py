"""config.json as a dataclass: one line a field, with the hub's spelling of it."""

from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
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
    float: ("a number", lambda v: type(v) in (int, float) and isfinite(v)),
    bool: ("true or false", lambda v: type(v) is bool),
    list[str]: (
        "a list of words",
        lambda v: type(v) is list and all(type(word) is str for word in v),
    ),
    dict | None: ("an object", lambda v: v is None or type(v) is dict),
}

_LARGEST = 2**31 - 1  # MLX's own limit for a size
# Far more than any model has: each is built, or looked for, one by one.
_MOST = {"depth": 2_000, "experts": 100_000}


def hub(*keys: str, default: Any = MISSING, least: int = 1) -> Any:
    """A field found in config.json under one of `keys`, the hub's spellings of it; dots go down.

    `default` is what transformers takes when the key is absent: a value, or a function of
    config.json less its nulls, which then also stands in for a null. Without it the key is
    required; with no key the field is derived. `least` bounds a whole number.
    """
    return field(metadata={"hub": keys, "default": default, "least": least})


@dataclass(frozen=True, kw_only=True)
class Config:
    """Base of every architecture's config.

    `only` lists keys of which the port implements one value; any other is an error, because a
    switch that is ignored loads without complaint and answers wrongly. `kinds` does the same for
    the entries of `layer_types`, of which there is one a layer; with `heads_listed` those of heads
    for further tokens may follow.
    """

    only: ClassVar[Mapping[str, Any]] = {}
    kinds: ClassVar[tuple[str, ...]] = ()
    heads_listed: ClassVar[bool] = False

    @classmethod
    def from_hub(cls, raw: Mapping[str, Any]) -> Self:
        """Read config.json as transformers 4 or 5 wrote it; a text_config comes before the rest.

        Raises: ConfigError if a key is missing, or asks for what is not ported.
        """
        raw = {**raw, **_object(raw, "text_config")}
        for key in ("rope_parameters", "rope_scaling"):
            _object(raw, key)
        for key, wanted in cls.only.items():
            if (found := _find(raw, key)) not in (MISSING, None, wanted):
                raise ConfigError(
                    f"{key} is {found!r} in config.json; this port implements only {wanted!r}."
                )
        values = {f.name: _read(raw, f) for f in fields(cls)}
        missing = {}
        for f in fields(cls):
            try:
                values[f.name] = _fill(raw, values[f.name], f)
            except KeyError as error:
                missing[" or ".join(f.metadata["hub"]) or error.args[0]] = True
        if missing:
            kind = raw.get("model_type")
            raise ConfigError(f"config.json of model_type {kind!r} lacks {', '.join(missing)}.")
        if cls.kinds:
            cls._check_layers(values["layer_types"], values["depth"])
        return cls(**values)

    @classmethod
    def _check_layers(cls, layer_types: list[str], depth: int) -> None:
        if unknown := set(layer_types) - set(cls.kinds):
            raise ConfigError(
                f"layer_types has {', '.join(sorted(unknown))}; "
                f"this port knows {', '.join(cls.kinds)}."
            )
        listed = len(layer_types)
        if listed < depth or (listed > depth and not cls.heads_listed):
            raise ConfigError(
                f"layer_types has {listed} entries for {depth} layers; it needs one for each."
            )

    def spelled_out(self) -> dict[str, Any]:
        """Each named field under its first hub key, transformers 4's, and what `only` holds.

        So no reader has to guess.
        """
        found = {key: value for key, value in self.only.items() if "." not in key}
        for f in fields(self):
            if f.metadata["hub"]:
                *path, last = f.metadata["hub"][0].split(".")
                node = reduce(lambda node, part: node.setdefault(part, {}), path, found)
                node[last] = getattr(self, f.name)
        return found


def one_full_in(key: str, other: str) -> Callable[[Mapping[str, Any]], list[str]]:
    """`layer_types` of a config that gives only the period under `key`, 4 where that is absent.

    The last layer of each period is "full_attention", the rest are `other`.
    """

    def layer_types(raw: Mapping[str, Any]) -> list[str]:
        period = raw.get(key, 4)
        if type(period) is not int or period < 1:
            raise ConfigError(
                f"{key} is {period!r} in config.json; a whole number from 1 is wanted."
            )
        layers = range(1, raw["num_hidden_layers"] + 1)
        return [other if i % period else "full_attention" for i in layers]

    return layer_types


def period(layer_types: list[str]) -> int:
    """The period that `one_full_in` makes these layers of; past the last if none is full.

    Raises: ConfigError if they follow none, which mlx-lm cannot be told.
    """
    full = [kind == "full_attention" for kind in layer_types]
    for n in range(1, len(full) + 2):
        if full == [i % n == 0 for i in range(1, len(full) + 1)]:
            return n
    raise ConfigError(
        f"layer_types is {layer_types!r}; the MLX format knows only one full layer in every n."
    )


def scaling(raw: Mapping[str, Any]) -> dict[str, Any] | None:
    """What transformers 4 would call rope_scaling; None where nothing is stretched."""
    found = raw.get("rope_parameters") or {}
    if found.get("rope_type", "default") == "default":
        return None
    others = ("rope_theta", "partial_rotary_factor")
    return {key: value for key, value in found.items() if key not in others}


def _read(raw: Mapping[str, Any], f: Field) -> Any:
    """What config.json has for a field: a value of the right kind, None or MISSING."""
    found = {key: _find(raw, key) for key in f.metadata["hub"]}
    values = [(key, value) for key, value in found.items() if value not in (MISSING, None)]
    for key, value in values:
        _check(f, value, f"{key} is {value!r} in config.json")
        if value != values[0][1]:
            raise ConfigError(
                f"{values[0][0]} is {values[0][1]!r} in config.json but {key} is {value!r}; "
                "the two must agree."
            )
    if values:
        return values[0][1]
    return None if None in found.values() else MISSING


def _fill(raw: Mapping[str, Any], value: Any, f: Field) -> Any:
    """The value, or what stands in for a key that is absent or null.

    Raises: KeyError if nothing does; ConfigError if what should is of the wrong kind.
    """
    default = f.metadata["default"]
    if value is not MISSING and value is not None:
        return value
    if default is MISSING or (value is None and not callable(default)):
        raise KeyError(f.name)
    if not callable(default):
        return default
    try:
        found = default({key: value for key, value in raw.items() if value is not None})
    except (ArithmeticError, AttributeError, IndexError, TypeError, ValueError) as error:
        raise ConfigError(
            f"config.json has a value of the wrong kind where {f.name} is to be found: {error}."
        ) from error
    _check(f, found, f"{f.name} comes to {found!r} by config.json")
    return found


def _check(f: Field, value: Any, said: str) -> None:
    least, most = f.metadata["least"], _MOST.get(f.name, _LARGEST)
    whole = (
        f"a whole number from {least}" + (f" to {most:,}" if type(value) is int else ""),
        lambda v: type(v) is int and least <= v <= most,
    )
    wanted, fits = whole if f.type is int else _KINDS.get(f.type, ("", lambda _: True))
    if not fits(value):
        raise ConfigError(f"{said}; {wanted} is wanted.")


def _object(raw: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = raw.get(key) or {}
    if not isinstance(found, Mapping):
        raise ConfigError(f"{key} is {found!r} in config.json; an object is wanted.")
    return found


def _find(raw: Mapping[str, Any], key: str) -> Any:
    """`_find(raw, "a.b")` is raw["a"]["b"], or MISSING if either is absent."""
    try:
        return reduce(lambda node, part: node[part], key.split("."), raw)
    except (KeyError, TypeError):
        return MISSING
