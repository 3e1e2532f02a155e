"""Where numba keeps what it compiles."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numba import config

from mlxarch.backend import kernels_folder


@contextmanager
def kept() -> Generator[None, None, None]:
    """What is compiled meanwhile is kept in a folder of ours, if NUMBA_CACHE_DIR names no other."""
    settings: dict[str, Any] = vars(config)
    asked = settings["CACHE_DIR"]
    settings["CACHE_DIR"] = asked or str(kernels_folder(Path(__file__).parent))
    try:
        yield
    finally:
        settings["CACHE_DIR"] = asked
