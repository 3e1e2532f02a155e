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
    sees: bool = False  # `vision/{module}.py` is its tower

    @property
    def model(self) -> ModuleType:
        """The module with `Config` and `build`."""
        return import_module(f"mlxarch.models.{self.module}")

    @property
    def names(self) -> ModuleType:
        """The module with `from_hub`, `table` and `mlx_keys`."""
        return import_module(f"mlxarch.names.{self.module}")

    @property
    def vision(self) -> ModuleType:
        """The module with the tower's `Config` and `build`."""
        return import_module(f"mlxarch.vision.{self.module}")


_KIMI = Architecture("Kimi K2.5", "kimi_k25", sees=True)
_QWEN35 = Architecture("Qwen 3.5", "qwen35", sees=True)
_STEP = Architecture("Step 3.5 Flash", "step35")

BY_MODEL_TYPE = {
    "afmoe": Architecture("Trinity", "trinity"),
    "cohere2": Architecture("Tiny Aya", "tiny_aya"),
    "deepseek_v3": _KIMI,
    "glm_moe_dsa": Architecture("GLM-5", "glm5"),
    "kimi_k2": _KIMI,
    "kimi_k25": _KIMI,
    "llama": Architecture("Nanbeige 4.1", "nanbeige41"),
    "minimax_m2": Architecture("MiniMax M2.5", "minimax_m25"),
    "qwen3_5": _QWEN35,
    "qwen3_5_moe": _QWEN35,
    "qwen3_5_moe_text": _QWEN35,
    "qwen3_5_text": _QWEN35,
    "qwen3_next": Architecture("Qwen3-Next", "qwen3_next"),
    "step3p5": _STEP,
    "step3p7": _STEP,
}
# Names that more than one architecture bears: config.json's "architectures" tells them apart.
BY_CLASS = {
    "BailingMoeV2_5ForCausalLM": Architecture("Ling 2.5", "ling25"),
}
_SHARED_TYPES = {"bailing_hybrid", "bailing_moe_linear", "bailing_moe_v2_5"}


def find(raw: Mapping[str, Any]) -> Architecture:
    """The port for a config.json.

    Raises: ConfigError if there is none.
    """
    kind, classes = raw.get("model_type"), raw.get("architectures")
    if isinstance(kind, str) and kind in BY_MODEL_TYPE:
        return BY_MODEL_TYPE[kind]
    if isinstance(kind, str) and kind in _SHARED_TYPES:
        for name in BY_CLASS:
            if isinstance(classes, list) and name in classes:
                return BY_CLASS[name]
        raise ConfigError(
            f"model_type {kind!r} with architectures {classes!r} is not ported; "
            f"of that type only {', '.join(BY_CLASS)} is."
        )
    known = ", ".join(sorted(BY_MODEL_TYPE | dict.fromkeys(_SHARED_TYPES)))
    raise ConfigError(f"model_type is {kind!r} in config.json; ported are {known}.")
