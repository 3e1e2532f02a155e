"""Lightning attention, one token and one head at a time.

Shapes as in blocks/lightning.py.   Source: arXiv:2405.17381, section 3; norm, gate and rotation,
inclusionAI/Ling-V2.5, modeling_bailing_moe_v2_5.py.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from .norm import rms_norm


def lightning_attention(
    x: np.ndarray,
    weights: Mapping[str, np.ndarray],
    *,
    heads: int,
    decay: Sequence[float],
    groups: int,
    rotate: Callable[[np.ndarray, int], np.ndarray],
    norm_eps: float,
) -> np.ndarray:
    """x (L, D), one row of a batch from its first token -> (L, D).

    Args:
        weights: The matrices; query_key_value has the rows of all heads' queries, then keys, then
            values.
        decay: Each head's log decay a token.
        groups: Runs of features, across heads, that are normed apart.
        rotate: What a position does to a query or key (E,).
    """
    size = len(weights["q_norm"])
    states, out = np.zeros((heads, size, size)), []
    for t, token in enumerate(x):
        q, k, v = np.split(weights["query_key_value"] @ token, 3)
        read = []
        for head in range(heads):
            query, key, value = (np.split(part, heads)[head] for part in (q, k, v))
            query = rotate(rms_norm(query, weights["q_norm"], norm_eps), t)
            key = rotate(rms_norm(key, weights["k_norm"], norm_eps), t)
            states[head] = states[head] * math.exp(decay[head]) + np.outer(key, value)
            read.append(query / math.sqrt(size) @ states[head])
        runs = np.split(np.concatenate(read), groups)
        scales = np.split(weights["norm"], groups)
        normed = [rms_norm(run, scale, norm_eps) for run, scale in zip(runs, scales, strict=True)]
        gate = 1 / (1 + np.exp(-weights["gate_proj"] @ token))
        out.append(weights["o_proj"] @ (np.concatenate(normed) * gate))
    return np.array(out)
