"""Memory that was freed goes back to the system."""

import ctypes
import gc

import psutil
import pytest
from textual.app import App

from mlxarch.app import allocator
from mlxarch.app.chat import garbage

BLOCK, COUNT = 100_000, 800  # bytes


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="it cannot be asked")
@pytest.mark.parametrize("give", [allocator.trim, lambda: garbage.collect(App())])
def test_holes_between_what_is_in_use_are_given_back(give):
    blocks = [bytearray(BLOCK) for _ in range(COUNT)]
    kept = blocks[::2]
    del blocks
    before = psutil.Process().memory_info().rss
    try:
        give()
        assert before - psutil.Process().memory_info().rss > BLOCK * COUNT // 4
    finally:
        gc.unfreeze()
    assert len(kept) == COUNT // 2
