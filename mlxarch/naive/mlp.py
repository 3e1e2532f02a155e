"""Feed-forward networks, one token and one hidden feature at a time."""

import math
from collections.abc import Mapping

import numpy as np


def swiglu(x: np.ndarray, weights: Mapping[str, np.ndarray]) -> np.ndarray:
    """x (D,) -> (D,), with the matrices gate_proj, up_proj and down_proj, rows out, columns in.

    Source: arXiv:2002.05202, section 2.
    """
    out = np.zeros_like(x)
    for feature in range(len(weights["gate_proj"])):
        gate = weights["gate_proj"][feature] @ x
        value = gate / (1 + math.exp(-gate)) * (weights["up_proj"][feature] @ x)
        out += value * weights["down_proj"][:, feature]
    return out
