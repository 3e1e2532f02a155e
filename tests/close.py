"""How far two models are apart, and which layer is the first to differ."""

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from unittest.mock import patch

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from goldens import Golden

LIMIT = 1e-4


def relative(got, wanted) -> float:
    """The largest error of a position, relative to the length of what was wanted there."""
    got, wanted = np.asarray(got, dtype=np.float64), np.asarray(wanted, dtype=np.float64)
    assert got.shape == wanted.shape, f"shape {got.shape}; wanted {wanted.shape}"
    error = np.linalg.norm(got - wanted, axis=-1) / np.linalg.norm(wanted, axis=-1)
    return float(error.max()) if np.isfinite(error).all() else float("inf")


def assert_close(
    what: str, got, wanted, limit: float = LIMIT, report: Callable[[], str] | None = None
) -> None:
    """Fail with the error, and with a layer report where there is one to make."""
    error = relative(got, wanted)
    if error > limit:
        more = f"\n{report()}" if report is not None else ""
        raise AssertionError(f"{what}: off by {error:.1e}; {limit:.0e} is allowed.{more}")


@contextmanager
def recording(model: nn.Module) -> Generator[dict[str, mx.array]]:
    """What every module gives in the calls inside, by its path; the model itself is ""."""
    paths = {id(module): path for path, module in model.named_modules()}
    outputs: dict[str, mx.array] = {}

    def recorded(call):
        def wrapper(module, *args, **kwargs):
            out = call(module, *args, **kwargs)
            if id(module) in paths:
                outputs[paths[id(module)]] = out
            return out

        return wrapper

    with ExitStack() as patches:
        for kind in {type(module) for module in model.modules() if callable(module)}:
            patches.enter_context(patch.object(kind, "__call__", recorded(kind.__call__)))
        yield outputs


def layer_report(
    model: nn.Module, golden: Golden, cuts: Sequence[int] = (), limit: float = LIMIT
) -> str:
    """One line for each part that the reference recorded; the first to differ is the culprit.

    [OK]   layers.3        relative 2.1e-07, max 1.4e-06
    [DIFF] layers.4.mixer  relative 3.1e-02, max 8.0e-02

    With `cuts` the prompt arrives in pieces, through a cache.
    """
    prefix, stride, ids = "trace.", golden.meta["stride"], golden["long.ids"]
    wanted = {k.removeprefix(prefix): v for k, v in golden.arrays.items() if k.startswith(prefix)}
    wanted["logits"] = golden["long.logits"][0, ::stride]
    cache, pieces = model.make_cache() if cuts else None, []
    with recording(model) as outputs:
        for start, stop in pairwise([0, *cuts, ids.shape[1]]):
            outputs["logits"] = model(mx.array(ids[:, start:stop]), cache=cache)
            pieces.append(dict(outputs))
    lines = []
    for path, theirs in wanted.items():
        if path not in outputs:
            lines.append(f"[NONE] {path:16} this model has no such part")
            continue
        ours = np.concatenate([piece[path][0] for piece in pieces])[::stride]
        error, largest = relative(ours, theirs), np.abs(ours - theirs).max()
        verdict = "[OK]  " if error <= limit else "[DIFF]"
        lines.append(f"{verdict} {path:16} relative {error:.1e}, max {largest:.1e}")
    return "\n".join(lines)
