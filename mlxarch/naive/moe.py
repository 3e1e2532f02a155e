"""Mixture of experts, one token and one expert at a time.

Shapes as in blocks/moe.py.   Source: arXiv:2401.06066, section 3.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

Network = Callable[[np.ndarray], np.ndarray]


def moe(
    x: np.ndarray, weights: Mapping[int, float], experts: Sequence[Network], shared: Network
) -> np.ndarray:
    """x (D,) -> (D,): the experts that have a weight, and one that every token uses."""
    out = shared(x)
    for expert, weight in weights.items():
        out = out + weight * experts[expert](x)
    return out


def sigmoid_route(
    x: np.ndarray,
    gate: np.ndarray,
    bias: np.ndarray,
    *,
    top_k: int,
    groups: int = 1,
    group_top_k: int = 1,
    normalize: bool = True,
    scale: float = 1.0,
) -> dict[int, float]:
    """x (D,), gate (N, D), bias (N,) -> the weight of each chosen expert.

    The bias counts in every choice and in no weight. A group is worth its two best experts.

    Source: arXiv:2412.19437, equations 12 to 16; groups, transformers modeling_deepseek_v3.py.
    """
    scores = [_sigmoid(row @ x) for row in gate]
    ranks = [score + push for score, push in zip(scores, bias, strict=True)]
    size = len(gate) // groups
    members = [range(group * size, (group + 1) * size) for group in range(groups)]
    worth = [sum(sorted((ranks[e] for e in group), reverse=True)[:2]) for group in members]
    open_groups = _best(range(groups), worth, group_top_k)
    chosen = _best((e for group in open_groups for e in members[group]), ranks, top_k)
    total = sum(scores[e] for e in chosen) if normalize else 1.0
    return {e: scores[e] / total * scale for e in chosen}


def softmax_route(
    x: np.ndarray, gate: np.ndarray, *, top_k: int, normalize: bool = True
) -> dict[int, float]:
    """x (D,), gate (N, D) -> the weight of each chosen expert.

    Source: transformers, models/qwen3_next/modeling_qwen3_next.py.
    """
    logits = [row @ x for row in gate]
    odds = [math.exp(logit - max(logits)) for logit in logits]
    chosen = _best(range(len(gate)), odds, top_k)
    total = sum(odds[e] for e in chosen) if normalize else sum(odds)
    return {e: odds[e] / total for e in chosen}


def clamped_swiglu(
    x: np.ndarray, weights: Mapping[str, np.ndarray], limit: float = math.inf
) -> np.ndarray:
    """x (D,) -> (D,): SwiGLU whose hidden features are clamped after SiLU and before the product.

    Source: transformers, models/step3p7/modeling_step3p7.py.
    """
    out = np.zeros_like(x)
    for feature in range(len(weights["gate_proj"])):
        gate = weights["gate_proj"][feature] @ x
        gate = min(gate * _sigmoid(gate), limit)
        value = max(-limit, min(weights["up_proj"][feature] @ x, limit))
        out += gate * value * weights["down_proj"][:, feature]
    return out


def gated_expert(x: np.ndarray, weights: Mapping[str, np.ndarray]) -> np.ndarray:
    """x (D,) -> (D,): SwiGLU, scaled by what a gate (1, D) of its own makes of x.

    Source: transformers, models/qwen3_next/modeling_qwen3_next.py.
    """
    return _sigmoid(weights["gate"][0] @ x) * clamped_swiglu(x, weights)


def _best(candidates: Iterable[int], scores: Sequence[float], count: int) -> list[int]:
    return sorted(candidates, key=lambda i: scores[i], reverse=True)[:count]


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))
