"""Stretched rotary embeddings, one pair of features at a time.

Pair i of E / 2 turns by base^(-2i / E) radians a token where nothing is stretched.
"""

import math
from collections.abc import Mapping
from typing import Any


def llama3(turning: float, scaling: Mapping[str, Any]) -> float:
    """Radians a token of a pair -> after stretching, by its turns within the old context.

    Source: meta-llama/llama-models, models/llama3/model.py, apply_scaling; keys, transformers
    modeling_rope_utils.py.
    """
    turns = scaling["original_max_position_embeddings"] * turning / (2 * math.pi)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    if turns > high:
        return turning
    if turns < low:
        return turning / scaling["factor"]
    kept = (turns - low) / (high - low)
    return kept * turning + (1 - kept) * turning / scaling["factor"]


def yarn(pair: int, dims: int, base: float, scaling: Mapping[str, Any]) -> float:
    """Radians a token of a pair of `dims` features, after stretching.

    Pairs up to the one that makes 32 turns within the old context are kept, those from the one
    that makes a single turn are stretched whole, those between by their number. The paper goes by
    turns there; every implementation, and so every checkpoint, by number.

    Source: arXiv:2309.00071, section 3.2; transformers modeling_rope_utils.py.
    """
    original = scaling["original_max_position_embeddings"]

    def with_turns(turns: float) -> float:
        return dims / 2 * math.log(original / (2 * math.pi * turns), base)

    first = with_turns(scaling.get("beta_fast", 32))
    last = with_turns(scaling.get("beta_slow", 1))
    if scaling.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, dims - 1)
    stretched = min(max((pair - first) / (last - first), 0.0), 1.0)
    turning = base ** (-2 * pair / dims)
    return (1 - stretched) * turning + stretched * turning / scaling["factor"]
