"""What the tests that hold blocks to their naive twins share."""

from collections.abc import Callable, Iterable
from itertools import pairwise

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_map_with_path

# Around the borders of the chunks that recurrent blocks work in.
LENGTHS = [1, 2, 63, 64, 65, 130]
# float32 against float64: a few hundred roundings of 6e-8 each.
LIMIT = 1e-5


def randomised(module: nn.Module, seed: int) -> nn.Module:
    """The module with every parameter random, norms too, and outputs of a size like its inputs.

    Decays are slow and fast, and biases mostly below zero.
    """
    key = mx.random.key(seed)

    def draw(path, w):
        nonlocal key
        key, mine = mx.random.split(key)
        noise = mx.random.normal(w.shape, key=mine)
        if path.endswith("A_log"):
            return 2 * noise - 2
        if path.endswith("bias"):
            return 0.5 * noise - 0.3
        return 1 + 0.3 * noise if w.ndim == 1 else 1.5 * noise / w.shape[-1] ** 0.5

    module.update(tree_map_with_path(draw, module.parameters()))
    mx.eval(module.parameters())
    return module


def matrices(module: nn.Module) -> dict[str, np.ndarray]:
    """A block's weights as its twin takes them."""
    flat = tree_flatten(module.parameters())
    return {
        name.removesuffix(".weight"): np.array(w.astype(mx.float32), dtype=np.float64)
        for name, w in flat
    }


def latent_matrices(module: nn.Module) -> dict[str, np.ndarray]:
    """Latent attention's weights as published: kv_b_proj is each head's keys, then its values."""
    weights = matrices(module)
    keys, values = weights.pop("embed_q").swapaxes(1, 2), weights.pop("unembed_out")
    together = np.concatenate([keys, values], axis=1)  # (H, E + F, R)
    return weights | {"kv_b_proj": together.reshape(-1, together.shape[-1])}


def inputs(length: int, dim: int) -> mx.array:
    """Two rows of a batch."""
    return mx.random.normal((2, length, dim), key=mx.random.key(length))


def by_row(twin: Callable[[np.ndarray], np.ndarray], x: mx.array) -> np.ndarray:
    """What a twin makes of each row of a batch."""
    return np.stack([twin(np.array(row, dtype=np.float64)) for row in x])


def in_pieces(block: nn.Module, x: mx.array, cuts: Iterable[int]) -> np.ndarray:
    """What a mixer makes of x (B, L, D) that arrives in pieces, through a cache."""
    cache, pieces = block.make_cache(), []
    edges = sorted({0, x.shape[1]} | {cut for cut in cuts if cut < x.shape[1]})
    for start, stop in pairwise(edges):
        piece = x[:, start:stop]
        pieces.append(np.array(block(piece, block.make_mask(piece, cache), cache)))
    return np.concatenate(pieces, axis=1)
