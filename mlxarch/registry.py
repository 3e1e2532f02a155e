"""Which file serves which checkpoint: explicit, so that it can be searched for."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

from .errors import ConfigError


@dataclass(frozen=True)
class Architecture:
    """A port: `models/{module}.py` composes it, `names/{module}.py` spells it."""

    name: str  # the product, for people
    module: str

    @property
    def model(self) -> ModuleType:
        """The module with `Config` and `build`."""
        return import_module(f"mlxarch.models.{self.module}")

    @property
    def names(self) -> ModuleType:
        """The module with `from_hub`, `table` and `mlx_keys`."""
        return import_module(f"mlxarch.names.{self.module}")


BY_MODEL_TYPE = {
    "cohere2": Architecture("Tiny Aya", "tiny_aya"),
    "llama": Architecture("Nanbeige 4.1", "nanbeige41"),
}


def find(raw: Mapping[str, Any]) -> Architecture:
    """The port for a config.json.

    Raises: ConfigError if there is none.
    """
    kind = raw.get("model_type")
    if not isinstance(kind, str) or kind not in BY_MODEL_TYPE:
        known = ", ".join(sorted(BY_MODEL_TYPE))
        raise ConfigError(f"model_type is {kind!r} in config.json; ported are {known}.")
    return BY_MODEL_TYPE[kind]
