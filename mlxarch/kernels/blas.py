"""Numpy's BLAS on all cores, but without its own threads.

Those spin while they wait, and stall for milliseconds wherever somebody else computes. Here each
task runs on a thread of ours with BLAS to itself.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from threadpoolctl import ThreadpoolController

from mlxarch import backend

# Multiplications from which on another thread is worth the 40 us of waking it.
_LARGE = 1 << 22

_blas = ThreadpoolController()


def each(task: Callable[[int], None], count: int, multiplications: int) -> None:
    """Call task(0), task(1) ... task(count - 1), side by side where all are a large work."""
    left = iter(range(count))

    def work() -> None:
        for i in left:
            task(i)

    others = min(count, backend.cores()) - 1 if multiplications >= _LARGE else 0
    with _blas.limit(limits=1, user_api="blas"):
        helpers = [_pool(os.getpid()).submit(work) for _ in range(others)]
        # Were this thread only to wait, the system might have the others share one core.
        try:
            work()
        finally:
            for helper in helpers:
                if not helper.cancel():
                    helper.result()


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """The threads of a process: a fork has none of its parent's."""
    return ThreadPoolExecutor(backend.cores(), thread_name_prefix="blas")
