"""The CPU's own kernels: what MLX does slowly where there is neither Metal nor CUDA.

Numba compiles `packed`, which multiplies few rows in the code of `vectors`, `heads`, `cpu` and
`crew`, which shares work among cores; `blas` is numpy's part, for many rows. `matrices`, `layers`
and `blocks` put them into a model. Only `backend.quicken` decides where.
"""

from pathlib import Path
from typing import Any

from numba import config

from mlxarch.backend import kernels_folder

_settings: dict[str, Any] = vars(config)
_asked = _settings["CACHE_DIR"]
_settings["CACHE_DIR"] = _asked or str(kernels_folder(Path(__file__).parent))
try:
    from . import blocks, cpu, crew, layers
finally:
    _settings["CACHE_DIR"] = _asked

# Whether anything had to be compiled.
BUILT = any(f.stats.cache_misses for f in (crew._products, cpu.unpack, cpu.shares))
# Each class of modules, and the one that is quicker.
QUICK: dict[type, type] = {
    quick.__bases__[-1]: quick
    for quick in (
        layers.Linear,
        layers.Embedding,
        layers.QuantizedLinear,
        layers.QuantizedEmbedding,
        layers.QuantizedSwitchLinear,
        layers.QuantizedMultiLinear,
        blocks.Attention,
        blocks.Decoder,
        blocks.GatedDeltaNet,
        blocks.GatedExpert,
        blocks.LatentAttention,
        blocks.LayerNorm,
        blocks.LightningAttention,
        blocks.MoE,
        blocks.MTPHead,
        blocks.RMSNorm,
        blocks.Rope,
        blocks.SparseLatentAttention,
        blocks.SwiGLU,
    )
}
