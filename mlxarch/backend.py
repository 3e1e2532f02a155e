"""The device in front of us: what it is, how much it may hold, what it computes in."""

import resource
from contextlib import suppress
from pathlib import Path

import mlx.core as mx
import psutil


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


def memory_limit() -> int:
    """Bytes that a model may take here: Metal's recommendation, else the memory there is."""
    info = mx.device_info()
    recommended = info.get("max_recommended_working_set_size") or info.get("total_memory")
    return int(recommended) if recommended else psutil.virtual_memory().total


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
