"""Latent attention with each head's keys and values written out, one query at a time.

Shapes as in blocks/mla.py.   Source: arXiv:2405.04434, equations 9 to 19; transformers
modeling_deepseek_v3.py.
"""

import math
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from .norm import rms_norm


def latent_attention(
    x: np.ndarray,
    weights: Mapping[str, np.ndarray],
    *,
    heads: int,
    head_dim: int,
    rotate: Callable[[np.ndarray, int], np.ndarray],
    norm_eps: float,
    softmax_factor: float = 1.0,
    seen: Callable[[int], Iterable[int]] = lambda t: range(t + 1),
) -> np.ndarray:
    """x (L, D), one row of a batch from its first token -> (L, D).

    Args:
        weights: The matrices as published: kv_b_proj has E rows for a head's keys, then F for its
            values, and so on head by head.
        rotate: What a position does to the P features that bear it.
        seen: The tokens that the query at a position attends to.
    """
    rank = weights["kv_b_proj"].shape[1]
    queries, latents, positions = [], [], []
    for t, token in enumerate(x):
        queries.append(weights["q_b_proj"] @ compressed_query(token, weights, norm_eps))
        joint = weights["kv_a_proj"] @ token
        latents.append(rms_norm(joint[:rank], weights["kv_a_norm"], norm_eps))
        positions.append(rotate(joint[rank:], t))  # one for all heads
    out: list[list[np.ndarray]] = [[] for _ in x]
    for head, expand in enumerate(np.split(weights["kv_b_proj"], heads)):
        pairs = [np.split(expand @ latent, [head_dim]) for latent in latents]
        keys = [np.append(key, rotated) for (key, _), rotated in zip(pairs, positions, strict=True)]
        values = [value for _, value in pairs]
        for t, all_heads in enumerate(queries):
            query, rotated = np.split(np.split(all_heads, heads)[head], [head_dim])
            query = np.append(query, rotate(rotated, t))
            scale = softmax_factor / math.sqrt(len(query))
            odds = {s: math.exp(query @ keys[s] * scale) for s in seen(t)}
            total = sum(odds.values())
            out[t].append(np.sum([odd / total * values[s] for s, odd in odds.items()], axis=0))
    return np.array([weights["o_proj"] @ np.concatenate(parts) for parts in out])


def compressed_query(x: np.ndarray, weights: Mapping[str, np.ndarray], eps: float) -> np.ndarray:
    """x (D,) -> (query rank,): what the queries of all heads are made of."""
    return rms_norm(weights["q_a_proj"] @ x, weights["q_a_norm"], eps)
