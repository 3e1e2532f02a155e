"""DeepSeek Sparse Attention: scores by loops, a sorted choice, attention to nothing else.

Shapes as in blocks/sparse.py.   Source: DeepSeek-V3.2, arXiv:2512.02556, equations 1 and 2;
transformers modeling_glm_moe_dsa.py.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from .mla import compressed_query, latent_attention
from .norm import layer_norm


def choose(
    x: np.ndarray,
    weights: Mapping[str, np.ndarray],
    *,
    heads: int,
    rotated_dim: int,
    top_k: int,
    rotate: Callable[[np.ndarray, int], np.ndarray],
    norm_eps: float,
) -> list[list[int]]:
    """x (L, D), one row of a batch -> for each token the up to T it attends to, best first.

    Args:
        heads: The indexer's.
        rotate: What a position does to the first P features of the indexer's queries and keys.
        norm_eps: Of the latent queries, which the indexer shares with the attention.
    """

    def placed(vector: np.ndarray, t: int) -> np.ndarray:
        return np.append(rotate(vector[:rotated_dim], t), vector[rotated_dim:])

    keys, chosen = [], []
    for t, token in enumerate(x):
        key = weights["indexer.wk"] @ token
        key = layer_norm(key, weights["indexer.k_norm"], weights["indexer.k_norm.bias"], 1e-6)
        keys.append(placed(key, t))
        query = weights["indexer.wq_b"] @ compressed_query(token, weights, norm_eps)
        votes = weights["indexer.weights_proj"] @ token / math.sqrt(heads)
        scores = [0.0] * (t + 1)
        for vote, part in zip(votes, np.split(query, heads), strict=True):
            part = placed(part, t)
            for s in range(t + 1):
                scores[s] += vote * max(part @ keys[s] / math.sqrt(len(part)), 0.0)
        chosen.append(sorted(range(t + 1), key=lambda s: scores[s], reverse=True)[:top_k])
    return chosen


def sparse_attention(
    x: np.ndarray, weights: Mapping[str, np.ndarray], chosen: Sequence[Sequence[int]], **sizes
) -> np.ndarray:
    """x (L, D), one row of a batch -> (L, D).

    Args:
        chosen: The layer's own choice, or that of a layer before whose choice it shares.
        sizes: As of latent attention.
    """
    return latent_attention(x, weights, seen=lambda t: chosen[t], **sizes)
