"""Multi-token prediction: a head that guesses the token after the next one.

Shapes as in attention.py.
"""

from collections.abc import Collection
from typing import Any

import mlx.core as mx
import mlx.nn as nn


class MTPHead(nn.Module):
    """One more block, fed with a hidden state and the embedding of the token that came of it.

    What it returns is normed and ready for the output head, and is what the next head is fed with.

    Args:
        block: Any module with `block(x, mask, cache)` and a `mixer`.
        vocab: Size of an output head of its own; None where the model's own is shared.

    Source: arXiv:2412.19437, section 2.2; transformers modeling_layers.py, MtpModel.
    Twin: naive/mtp.py.
    """

    def __init__(self, dim: int, block: nn.Module, *, norm_eps: float, vocab: int | None = None):
        super().__init__()
        self.embed_norm = nn.RMSNorm(dim, eps=norm_eps)
        self.hidden_norm = nn.RMSNorm(dim, eps=norm_eps)
        self.proj = nn.Linear(2 * dim, dim, bias=False)
        self.block = block
        self.norm = nn.RMSNorm(dim, eps=norm_eps)
        self.head = None if vocab is None else nn.Linear(dim, vocab, bias=False)

    def __call__(self, hidden: mx.array, embedded: mx.array, cache=None) -> mx.array:
        """hidden, embedded (B, L, D): normed states and the tokens after them -> (B, L, D)."""
        joined = mx.concatenate([self.embed_norm(embedded), self.hidden_norm(hidden)], axis=-1)
        x = self.proj(joined)
        x = self.block(x, self.block.mixer.make_mask(x, cache), cache)
        return self.norm(x)

    @property
    def arrays(self) -> Any:
        """The library whose arrays it takes and gives without a detour."""
        return mx

    def make_cache(self):
        """An empty cache for the block."""
        return self.block.mixer.make_cache()


def count(names: Collection[str]) -> int:
    """How many heads a checkpoint has, by its tensors: configs do not always say."""
    return len({name.split(".")[1] for name in names if name.startswith("mtp.")})
