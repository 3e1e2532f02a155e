"""The source of a conversion, read one tensor at a time from shards that are there when needed."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import mlx.core as mx

from mlxarch import shards
from mlxarch.errors import CheckpointError, FormatError
from mlxarch.names.rules import Weights
from mlxarch.shards import TensorInfo

_OPEN = 8  # shards at once: a layer's experts may lie in several


class Reader:
    """Gives a source's tensors by their names, each to be read when it is evaluated.

    Args:
        tensors: What the plan knows of them.
        find: The file of a shard, which may have to be fetched first.
    """

    def __init__(self, tensors: Mapping[str, TensorInfo], find: Callable[[Path], Path]):
        self._tensors, self._find = tensors, find
        self._opened: OrderedDict[Path, Weights] = OrderedDict()

    def __call__(self, name: str) -> mx.array:
        """One tensor, which is forgotten here, so that its memory is its user's.

        Raises: CheckpointError if its shard is no longer what the plan knows; HubError.
        """
        shard = self._tensors[name].shard
        if name not in self._opened.get(shard, ()):
            self._opened.pop(shard, None)
            self._opened[shard] = self._open(shard)
            while len(self._opened) > _OPEN:
                self._opened.popitem(last=False)
        return self._opened[shard].pop(name)

    def forget(self, shard: Path) -> None:
        """Let go of a shard's file."""
        self._opened.pop(shard, None)

    def _open(self, shard: Path) -> Weights:
        file = self._find(shard)
        changed = CheckpointError(f"{file} changed while it was converted; start again.")
        planned = {name: info for name, info in self._tensors.items() if info.shard == shard}
        try:
            found = shards.read_headers([file])
        except (OSError, FormatError) as error:
            raise changed from error
        if {name: (info.dtype, info.shape) for name, info in found.items()} != {
            name: (info.dtype, info.shape) for name, info in planned.items()
        }:
            raise changed
        return cast(Weights, mx.load(str(file)))
