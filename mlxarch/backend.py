"""The device in front of us: what it is, how much it may hold, what it computes in."""

import os
import resource
import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import psutil
from platformdirs import user_cache_path

from .errors import DoesNotFit


def device() -> str:
    """Where MLX computes: "Metal", "CUDA" or "CPU"."""
    if mx.default_device() == mx.Device(mx.cpu):
        return "CPU"
    return "Metal" if mx.metal.is_available() else "CUDA"


def compute_dtype(stored: mx.Dtype) -> mx.Dtype:
    """What floating weights are cast to when nobody asks for a type.

    MLX's CPU kernels accumulate in the type of their inputs: a 4-bit product in bfloat16 is off
    by 3 to 12 per cent, and slower than in float32. So the CPU always computes in float32.
    """
    return mx.float32 if device() == "CPU" else stored


@cache
def cores() -> int:
    """Cores that this process may use, and whose time its container grants."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="utf-8").split()
        count = min(count or 1, -(-int(quota) // int(period)))
    return count or 1


def prompt_tokens() -> int:
    """Tokens of a prompt that are read at once at most: more keep no device busier."""
    return 512 if device() == "CPU" else 2048


def memory_limit() -> int:
    """Bytes that a model may take here: Metal's recommendation, else the memory there is."""
    info = mx.device_info()
    recommended = info.get("max_recommended_working_set_size") or info.get("total_memory")
    return int(recommended) if recommended else psutil.virtual_memory().total


def keep_resident(limit: int) -> None:
    """Have macOS keep so many bytes in memory that Metal computes with; elsewhere do nothing.

    Raises: DoesNotFit if that is more than Metal recommends, which MLX would refuse.
    """
    if device() != "Metal":
        return
    if limit > memory_limit():
        raise DoesNotFit(
            f"Metal keeps at most {memory_limit() / 1e9:.2f} GB resident here, and "
            f"{limit / 1e9:.2f} GB are asked for. Ask for less, or raise the system's "
            "iogpu.wired_limit_mb."
        )
    mx.set_wired_limit(limit)


def free_memory() -> int:
    """Bytes that this process may still take: what is free here, or what its limits leave it."""
    process = psutil.Process()
    rooms = [psutil.virtual_memory().available]
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        rooms.append(limit - process.memory_info().vms)
    group = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError):
        # What files of this group are cached gives way when memory is wanted.
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        used = int((group / "memory.current").read_text()) - int(stat["file"])
        rooms.append(int((group / "memory.max").read_text()) - used)
    return max(0, min(rooms))


def bandwidth() -> float:
    """Bytes a second that this device reads from memory: the best of a few tries."""
    if device() != "CPU":
        array = mx.ones((1 << 28,))
        mx.eval(array)
        return array.nbytes / _quickest(lambda: mx.eval(array.max()))
    values = np.ones(1 << 26, dtype=np.float32)
    with ThreadPoolExecutor(cores()) as pool:
        parts = np.array_split(values, cores())
        return values.nbytes / _quickest(lambda: list(pool.map(np.max, parts)))


def _quickest(work: Callable[[], object]) -> float:
    """Seconds of some work, when nothing disturbs it."""
    found = []
    for _ in range(7):
        began = perf_counter()
        work()
        found.append(perf_counter() - began)
    return min(found)


def quicken(model: nn.Module) -> None:
    """Let a model's layers compute with kernels of our own where MLX has no quick ones: on a CPU.

    Names, parameters and results stay what they are. Without numba all is left to MLX, and a line
    on stderr says so, once.
    """
    if device() != "CPU" or (kernels := _kernels()) is None:
        return
    quick, get_ready = kernels
    modules = model.eval().modules()
    get_ready(module for module in modules if type(module) in quick)
    for module in modules:  # some are there twice
        module.__class__ = quick.get(type(module), type(module))


def kernels_folder(sources: Path) -> Path:
    """Where numba keeps what it makes of a folder's files: some are compiled into others."""
    code = b"".join(file.read_bytes() for file in sorted(sources.glob("*.py")))
    return user_cache_path("mlxarch") / "kernels" / sha256(code).hexdigest()[:16]


def to_be_built() -> bool:
    """Whether the CPU's kernels will have to be compiled first, for some fifteen seconds."""
    own = kernels_folder(Path(__file__).parent / "kernels")
    kept = own.exists() or "NUMBA_CACHE_DIR" in os.environ
    return device() == "CPU" and not kept and find_spec("numba") is not None


@cache
def _kernels() -> tuple[Mapping[type, type], Callable[[Iterable[nn.Module]], None]] | None:
    """Each layer's class and the one that is quicker, and what compiles for those.

    None where numba cannot run.
    """
    began = perf_counter()
    try:
        from .kernels import BUILT, QUICK, get_ready
    except (ImportError, OSError, RuntimeError) as error:
        # Numba raises RuntimeError where it finds no place for what it compiles.
        hint = " Let NUMBA_CACHE_DIR name a folder for them." * isinstance(error, RuntimeError)
        sys.stderr.write(
            f"The CPU's kernels cannot be built ({error}); MLX computes in their place, slowly."
            f"{hint}\n"
        )
        return None
    if BUILT:
        seconds = perf_counter() - began
        sys.stderr.write(f"The CPU's kernels were built, in {seconds:.0f} s, and kept.\n")
    return QUICK, get_ready
