"""Norms of one vector.

Source: RMSNorm, arXiv:1910.07467, equation 4; LayerNorm, arXiv:1607.06450, equation 3.
"""

import math

import numpy as np


def rms_norm(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    """x (D,) -> (D,): scaled to a mean square of one, then feature by feature."""
    return x / math.sqrt(x @ x / len(x) + eps) * weight


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float) -> np.ndarray:
    """x (D,) -> (D,): shifted to a mean of zero first."""
    centred = x - x.mean()
    return rms_norm(centred, weight, eps) + bias
