"""Gated DeltaNet, one token and one head at a time.

Shapes as in blocks/delta.py.
"""

import math
from collections.abc import Mapping

import numpy as np

from .norm import rms_norm


def gated_delta(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    g: np.ndarray,
    beta: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """q, k (L, K, E), v (L, H, F), g, beta (L, H) -> (L, H, F), the state after it (H, E, F).

    What a key finds in the decayed state is moved towards its value, by beta of the way.

    Source: arXiv:2412.06464, equation 10.
    """
    length, heads, value_dim = v.shape
    out, states = np.zeros_like(v), np.zeros((heads, q.shape[-1], value_dim))
    for head, state in enumerate(states):
        shared = head * q.shape[1] // heads
        for t in range(length):
            key, query = k[t, shared], q[t, shared]
            state *= math.exp(g[t, head])
            found = key @ state
            state += np.outer(key, beta[t, head] * (v[t, head] - found))
            out[t, head] = query @ state
    return out, states


def delta_net(
    x: np.ndarray,
    weights: Mapping[str, np.ndarray],
    *,
    heads: int,
    key_heads: int,
    key_dim: int,
    norm_eps: float,
) -> np.ndarray:
    """x (L, D), one row of a batch from its first token -> (L, D).

    Args:
        weights: The matrices; in_proj_qkv has the rows of all queries, then keys, then values;
            conv1d (features, taps) has the newest token's tap last.

    Source: arXiv:2412.06464, section 3.4; transformers modeling_qwen3_next.py.
    """
    length, taps = len(x), weights["conv1d"].shape[1]
    inputs = x @ weights["in_proj_qkv"].T
    mixed = np.zeros_like(inputs)
    for t in range(length):
        for age in range(min(taps, t + 1)):
            mixed[t] += weights["conv1d"][:, taps - 1 - age] * inputs[t - age]
    mixed = mixed * _sigmoid(mixed)
    keys = key_heads * key_dim
    q, k, v = np.split(mixed, [keys, 2 * keys], axis=1)
    q, k = (part.reshape(length, key_heads, key_dim) for part in (q, k))
    q, k = (part / np.sqrt((part**2).sum(-1, keepdims=True) + 1e-6) for part in (q, k))
    beta = _sigmoid(x @ weights["in_proj_b"].T)
    step = np.log1p(np.exp(x @ weights["in_proj_a"].T + weights["dt_bias"]))
    g = -np.exp(weights["A_log"]) * step
    out, _ = gated_delta(q / math.sqrt(key_dim), k, v.reshape(length, heads, -1), g, beta)
    z = (x @ weights["in_proj_z"].T).reshape(out.shape)
    for t in range(length):
        for head in range(heads):
            normed = rms_norm(out[t, head], weights["norm"], norm_eps)
            out[t, head] = normed * z[t, head] * _sigmoid(z[t, head])
    return out.reshape(length, -1) @ weights["out_proj"].T


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))
