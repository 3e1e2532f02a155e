"""The CPU's own kernels: what MLX does slowly where there is neither Metal nor CUDA.

Numba compiles `packed`, which multiplies few rows in the code of `vectors`, `heads`, `cpu` and
`crew`, which shares work among cores; `blas` is numpy's part, for many rows, and `tiles` and
`chunks` are numba's between its products. `matrices`, `layers`, `blocks`, `latents` and `recurrent`
put them into a model. Only `backend.quicken` decides where.
"""

from .keeping import kept

with kept():
    from . import blocks, chunks, cpu, crew, latents, layers, matrices, recurrent, tiles

get_ready = matrices.get_ready
# Whether anything had to be compiled.
BUILT = any(
    f.stats.cache_misses
    for f in (crew._products, cpu.unpack, cpu.shares, tiles.take, chunks.correct)
)
# Each class of modules, and the one that is quicker.
QUICK: dict[type, type] = {
    quick.__bases__[-1]: quick
    for quick in (
        layers.Linear,
        layers.Embedding,
        layers.QuantizedLinear,
        layers.QuantizedEmbedding,
        layers.SwitchLinear,
        layers.QuantizedSwitchLinear,
        layers.MultiLinear,
        layers.QuantizedMultiLinear,
        blocks.Attention,
        blocks.Decoder,
        blocks.GatedExpert,
        blocks.LayerNorm,
        blocks.MoE,
        blocks.MTPHead,
        blocks.RMSNorm,
        blocks.Rope,
        blocks.SwiGLU,
        blocks.TowerAttention,
        latents.Indexer,
        latents.LatentAttention,
        latents.SparseLatentAttention,
        recurrent.GatedDeltaNet,
        recurrent.GroupRMSNorm,
        recurrent.LightningAttention,
    )
}
