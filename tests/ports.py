"""A golden checkpoint of each port, and changes to its config.json."""

from collections.abc import Mapping
from typing import Any

from goldens import Golden

from mlxarch import config, registry
from mlxarch.models import ling25

NAMES = (
    "glm5",
    "kimi_k25",
    "ling25",
    "minimax_m25",
    "nanbeige41",
    "qwen35_dense",
    "qwen3_next",
    "step35",
    "tiny_aya",
    "trinity",
)
PORTS = {name: registry.find(Golden(name).config()).model for name in NAMES}


def their_decays(heads: int, layer: int, depth: int) -> list[float]:
    """Ling's memory fading as in mlx-lm, which took the other of two published forms."""
    return [-slope * (1 - layer / (depth - 1) + 1e-5) for slope in ling25._alibi(heads)]


def read(raw: Mapping[str, Any]) -> config.Config:
    """A config.json as its port reads it."""
    return registry.find(raw).model.Config.from_hub(raw)


def changed(raw: Mapping[str, Any], keys: Mapping[str, Any]) -> dict[str, Any]:
    """config.json with some keys changed; dots go down, and None takes a key away."""
    raw = {**raw}
    for key, value in keys.items():
        *path, last = key.split(".")
        node = raw
        for part in path:
            node[part] = dict(node.get(part) or {})
            node = node[part]
        node[last] = value
        if value is None:
            del node[last]
    return raw
