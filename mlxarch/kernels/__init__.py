"""The CPU's own kernels: what MLX does slowly where there is neither Metal nor CUDA.

`vectors` and `packed` multiply by matrices of few bits, `cpu` is what else numba compiles, `blas`
what numpy multiplies; `layers` and `blocks` put them into a model. Only `backend.quicken` decides
where.
"""

from hashlib import sha256
from pathlib import Path
from typing import Any

from numba import config
from platformdirs import user_cache_path


def kept_in(folder: Path) -> Path:
    """Where numba keeps what it makes of a folder's sources: some are compiled into others."""
    sources = b"".join(file.read_bytes() for file in sorted(folder.glob("*.py")))
    return user_cache_path("mlxarch") / "kernels" / sha256(sources).hexdigest()[:16]


_settings: dict[str, Any] = vars(config)
_asked = _settings["CACHE_DIR"]
_settings["CACHE_DIR"] = _asked or str(kept_in(Path(__file__).parent))
try:
    from . import blocks, cpu, layers, packed
finally:
    _settings["CACHE_DIR"] = _asked

# Whether anything had to be compiled.
BUILT = any(f.stats.cache_misses for f in (packed._products, cpu.unpack, cpu.shares))
# Each class of modules, and the one that is quicker.
QUICK: dict[type, type] = {
    base: quick
    for quick in (
        layers.Linear,
        layers.Embedding,
        layers.QuantizedLinear,
        layers.QuantizedEmbedding,
        layers.QuantizedSwitchLinear,
        layers.QuantizedMultiLinear,
        blocks.RMSNorm,
        blocks.Rope,
        blocks.SwiGLU,
        blocks.Attention,
    )
    for base in quick.__bases__
}
