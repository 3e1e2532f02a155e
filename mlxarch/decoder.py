"""The decoder that all architectures share: tokens, blocks, a norm, logits."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from .vision.images import Images


class Decoder(nn.Module):
    """Token ids (B, L) -> logits (B, L, V).

    A block is any module with `block(x, mask, cache)` and a `mixer` that says what mask and what
    cache it needs. Mixers of one type and window share one mask.
    """

    def __init__(
        self,
        vocab: int,
        dim: int,
        blocks: Sequence[nn.Module],
        norm: nn.Module,
        *,
        tied: bool,
        embed_scale: float = 1.0,
        logit_scale: float = 1.0,
    ):
        super().__init__()
        self.embed = nn.Embedding(vocab, dim)
        self.layers = list(blocks)
        self.norm = norm
        self.head = None if tied else nn.Linear(dim, vocab, bias=False)
        self.embed_scale, self.logit_scale = embed_scale, logit_scale
        # Heads for multi-token prediction, where the checkpoint has them: see blocks/mtp.py.
        self.mtp: list[nn.Module] | None = None

    def __call__(
        self,
        tokens: mx.array,
        cache: Sequence[Any] | None = None,
        images: Images | None = None,
    ) -> mx.array:
        """tokens (B, L) int -> logits (B, L, V); `cache` is one entry a layer, and moves on.

        Args:
            images: All pictures of the conversation, in every call on its cache, of one row.
        """
        return self.logits(self.norm(self.hidden(tokens, cache, images)))

    def hidden(
        self,
        tokens: mx.array,
        cache: Sequence[Any] | None = None,
        images: Images | None = None,
    ) -> mx.array:
        """tokens (B, L) int -> what the last block leaves (B, L, D), not normed yet."""
        x = self.embed(tokens)
        x = x if self.embed_scale == 1.0 else x * self.embed_scale
        if images is None:
            return self.through(x, cache)
        # Recurrent layers do not count.
        start = next((each.offset for each in cache or () if hasattr(each, "offset")), 0)
        return self.through(images.put(x, start), cache, images.places(start, x.shape[1]))

    def through(
        self,
        x: mx.array,
        cache: Sequence[Any] | None = None,
        places: int | mx.array | None = None,
    ) -> mx.array:
        """Embeddings (B, L, D) -> what the last block leaves (B, L, D).

        Args:
            places: See `Images.places`; None: as many as the cache holds, and counted on.
        """
        at = () if places is None else (places,)
        masks: dict[tuple[type, int | None], Any] = {}
        for block, entry in zip(self.layers, cache or [None] * len(self.layers), strict=True):
            kind = (type(block.mixer), block.mixer.window)
            if kind not in masks:
                masks[kind] = block.mixer.make_mask(x, entry)
            x = block(x, masks[kind], entry, *at)
        return x

    def logits(self, x: mx.array) -> mx.array:
        """Normed hidden states (B, L, D) -> logits (B, L, V)."""
        logits = self.embed.as_linear(x) if self.head is None else self.head(x)
        return logits if self.logit_scale == 1.0 else logits * self.logit_scale

    def make_cache(self, kv_bits: int | None = None) -> list[Any]:
        """An empty cache for each layer; keys and values in 8 or 4 bits where that is asked for."""
        return [block.mixer.make_cache(kv_bits) for block in self.layers]
