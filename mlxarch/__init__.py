"""MLX ports of the open-weight language models of early 2026.

    model = mlxarch.load("path/to/checkpoint")      # a hub folder, an mlx-community one or ours
    logits = model(tokens)                          # (B, L) int -> (B, L, V)

Importing this package is cheap; MLX is imported with the first thing that needs it.
"""

from typing import TYPE_CHECKING, Any

from .errors import (
    CheckpointError,
    ConfigError,
    ContextFull,
    DoesNotFit,
    FormatError,
    HubError,
    MlxarchError,
)

if TYPE_CHECKING:
    from .checkpoint import load

__all__ = [
    "CheckpointError",
    "ConfigError",
    "ContextFull",
    "DoesNotFit",
    "FormatError",
    "HubError",
    "MlxarchError",
    "__version__",
    "load",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "load":
        from .checkpoint import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
