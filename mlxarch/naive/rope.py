"""Rotary position embedding of one head's vector, one pair of features at a time.

Source: arXiv:2104.09864, section 3.2.2.
"""

import math

import numpy as np


def rotate(x: np.ndarray, position: int, base: float, *, interleaved: bool = False) -> np.ndarray:
    """x (E,) -> (E,): pair i of E / 2 is turned by position * base^(-2i / E) radians.

    A pair is two neighbours if interleaved; else one feature of each half, as Llama has it.
    """
    out, size = np.empty_like(x), len(x)
    for i in range(size // 2):
        a, b = (2 * i, 2 * i + 1) if interleaved else (i, i + size // 2)
        angle = position * base ** (-2 * i / size)
        out[a] = x[a] * math.cos(angle) - x[b] * math.sin(angle)
        out[b] = x[a] * math.sin(angle) + x[b] * math.cos(angle)
    return out
