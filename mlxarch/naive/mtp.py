"""A head for one further token, one position at a time.

Source: arXiv:2412.19437, equations 21 to 23. The paper writes the hidden state first; released
weights have the embedding first: transformers modeling_layers.py, MtpLayer.
"""

from collections.abc import Callable, Mapping

import numpy as np

from .norm import rms_norm


def mtp_head(
    hidden: np.ndarray,
    embedded: np.ndarray,
    weights: Mapping[str, np.ndarray],
    *,
    block: Callable[[np.ndarray], np.ndarray],
    norm_eps: float,
) -> np.ndarray:
    """hidden (L, D) of tokens 0 to L - 1, embedded (L, D) tokens 1 to L -> (L, D).

    Position i has seen tokens 0 to i + 1; what comes of it foretells token i + 2.

    Args:
        block: One layer like the model's own, (L, D) -> (L, D).
    """
    joined = []
    for state, token in zip(hidden, embedded, strict=True):
        token = rms_norm(token, weights["embed_norm"], norm_eps)
        state = rms_norm(state, weights["hidden_norm"], norm_eps)
        joined.append(weights["proj"] @ np.append(token, state))
    return np.array([rms_norm(y, weights["norm"], norm_eps) for y in block(np.array(joined))])
