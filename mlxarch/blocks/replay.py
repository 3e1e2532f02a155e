"""Calls of one token, whose graph MLX records once and replays: Python builds it no more.

On Metal and CUDA that is what a token of a small model waits for. On a CPU MLX would have a C++
compiler make kernels of it, and what Python costs is little there.
"""

from collections.abc import Callable
from functools import partial, wraps
from types import FunctionType
from typing import Any

import mlx.core as mx

from mlxarch import backend


class _Replay:
    """A module's call as MLX recorded it; a copy of the module records its own."""

    def __init__(self, module: Any, call: Callable[..., Any]):
        self._call: Callable[..., Any] = partial(call, module)
        self._recorded = None
        if backend.device() != "CPU":
            # The module's arrays are inputs, so that new ones are used at once.
            self._recorded = mx.compile(self._call, inputs=module)

    def __call__(self, *given: Any) -> Any:
        if self._recorded is None:
            return self._call(*given)
        return self._recorded(*(mx.array(one) if type(one) is int else one for one in given))

    def __reduce__(self):
        return type(None), ()


def replayed(call: FunctionType) -> Callable[..., Any]:
    """A method of a module, of x (..., L, D) and whatever else: where L is one, it is replayed.

    A whole number is an array to it then, for it may be another one each time.
    """
    name = f"_replayed_{call.__name__}"

    @wraps(call)
    def method(self: Any, x: mx.array, *rest: Any) -> Any:
        if x.shape[-2:-1] != (1,):
            return call(self, x, *rest)
        own = vars(self)
        found = own.get(name)
        if found is None:
            found = own[name] = _Replay(self, call)
        return found(x, *rest)

    return method
