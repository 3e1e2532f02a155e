"""The built-in guide: a small model that knows mlxarch, and works with no network."""

from pathlib import Path

NAME = "mlxarch guide"
PATH = Path(__file__).parent / "model"
