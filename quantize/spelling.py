"""Names of a checkpoint's linear layers, in mlx-lm's spelling and as modules of ours."""

from collections.abc import Iterable, Mapping
from typing import Any

from mlxarch import registry
from mlxarch.names import rules
from mlxarch.names.rules import Weights


class Spelling:
    """The two spellings of one architecture's names."""

    def __init__(self, raw: Mapping[str, Any]):
        port = registry.find(raw)
        self._table = port.names.table(port.model.Config.from_hub(raw))
        self._backwards = rules.inverse(self._table)

    def path(self, name: str) -> str:
        """Where a weight is with us; of one that is cut apart, its first part."""
        return rules.rename(self._table, name).removesuffix(".weight")

    def parts(self, name: str, paths: Iterable[str]) -> list[str]:
        """The modules among `paths` that a weight is cut into."""
        return [p for p in paths if rules.rename(self._backwards, f"{p}.weight") == name]

    def theirs(self, ours: Weights) -> Weights:
        """Tensors in mlx-lm's spelling, put together where they are cut apart here."""
        return rules.translate(self._backwards, ours)
