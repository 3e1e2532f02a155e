"""Softmax attention, one query of one head at a time.

Shapes as in blocks/attention.py.   Source: arXiv:2305.13245; windows, arXiv:2004.05150.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np


def attention(
    x: np.ndarray,
    weights: Mapping[str, np.ndarray],
    *,
    heads: int,
    kv_heads: int,
    rotate: Callable[[np.ndarray, int], np.ndarray],
    window: int | None = None,
) -> np.ndarray:
    """x (L, D), one row of a batch from its first token -> (L, D).

    Args:
        weights: The matrices q_proj, k_proj, v_proj and o_proj, rows out, columns in.
        rotate: What a position does to a query or key (E,).
        window: How many tokens back a query sees, itself included.
    """
    length = len(x)
    q = (x @ weights["q_proj"].T).reshape(length, heads, -1)
    k = (x @ weights["k_proj"].T).reshape(length, kv_heads, -1)
    v = (x @ weights["v_proj"].T).reshape(length, kv_heads, -1)
    out = np.zeros_like(q)
    for head in range(heads):
        shared = head * kv_heads // heads
        keys = [rotate(k[t, shared], t) for t in range(length)]
        for t in range(length):
            query = rotate(q[t, head], t)
            first = 0 if window is None else max(0, t - window + 1)
            scores = [query @ keys[s] / math.sqrt(len(query)) for s in range(first, t + 1)]
            odds = np.exp(np.array(scores) - max(scores))
            for s, odd in zip(range(first, t + 1), odds, strict=True):
                out[t, head] += odd / odds.sum() * v[s, shared]
    return out.reshape(length, -1) @ weights["o_proj"].T
