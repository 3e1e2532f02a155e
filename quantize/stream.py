"""Text on its way through a checkpoint of which one layer is in memory at a time.

Any architecture, any spelling, in float32, so that a model too large for this machine can be
measured and calibrated. Between two layers a caller may look at what the next one is fed with,
watch its linear layers and exchange their weights.

Shapes: B sequences of a batch   L tokens   D width   V vocabulary
"""

from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlxarch import checkpoint, formats, shards
from mlxarch.blocks.mtp import MTPHead
from mlxarch.blocks.sparse import Selection
from mlxarch.names.rules import Weights

from .product import Matrix, Product, stand_in

# config.json and the tensors that it speaks of, lazily.
Checkpoint = tuple[Mapping[str, Any], Weights]

# Tokens of a batch: attention to them must fit, and each expert should see some.
_BATCH = 2048
# Positions of which all logits are in memory.
_POSITIONS = 256


@dataclass
class Layer:
    """A layer in memory: a block, or a head for further tokens."""

    path: str  # "layers.3" or "mtp.0", as in the model
    block: nn.Module
    linears: dict[str, Product]  # by their paths in the model
    batches: list[tuple[Any, ...]]  # what the block is called with, for each batch
    _outputs: list[mx.array] | None = None
    _branches: list[tuple[mx.array, Any]] = field(default_factory=list)

    def outputs(self) -> list[mx.array]:
        """What it makes of each batch (B, L, D), computed once: exchange weights before."""
        if self._outputs is None:
            self._outputs = [self._output(batch) for batch in self.batches]
        return self._outputs

    def branch(self) -> None:
        """Let what it makes of the first batch with other weights go on too, beside `outputs`.

        All branches of a layer are one more batch from then on.
        """
        x, mask = self.batches[0]
        mask = copy(mask) if isinstance(mask, Selection) else mask
        self._branches.append((self._output((x, mask)), mask))

    def joined(self) -> tuple[mx.array, Any] | None:
        """The branches as one batch, and its mask."""
        if not self._branches:
            return None
        out, masks = zip(*self._branches, strict=True)
        mask = masks[0]
        if isinstance(mask, Selection) and mask.chosen is not None:
            mask.chosen = mx.concatenate([own.chosen for own in masks])
        return mx.concatenate(list(out)), mask

    def _output(self, batch: tuple[Any, ...]) -> mx.array:
        out = self.block(*batch)
        mx.eval(out)
        if isinstance(self.block, MTPHead) and self.block.head is not None:
            # An output head of its own is shown what it would be fed with.
            self.block.head.see(out)
        mx.clear_cache()
        return out


class Stream:
    """Tokens (N, L) on their way through a checkpoint, in a folder or yet to be written.

    `layers()` goes through all of them, then `logits()` says what comes out:

        for layer in (stream := Stream(folder, tokens)).layers():
            ...  # what is exchanged in layer.linears now counts for all that follows
        for logits in stream.logits():
            ...

    Raises: ConfigError, CheckpointError, FormatError.
    """

    def __init__(self, source: Path | Checkpoint, tokens: mx.array):
        if isinstance(source, Path):
            source = shards.read_config(source), checkpoint.read(source)
        raw, weights = source[0], formats.decode(*source)
        # Norms and the like: what rules compute of them is then exact. Matrices stay as stored.
        weights = {
            name: w.astype(mx.float32) if w.ndim < 2 and _is_float(w) else w
            for name, w in weights.items()
        }
        model = checkpoint.assemble(raw, weights)
        self._blocks: list[nn.Module | None] = [*model.layers]
        self._heads: list[nn.Module | None] = [*(model.mtp or [])]
        self.depth = len(self._blocks)
        self.index = 0  # of the layer that comes next
        self.embed = Product(model.embed)
        self.head = self.embed if model.head is None else Product(model.head)
        self._norm, self._embed_scale = model.norm, model.embed_scale
        self._logit_scale = model.logit_scale
        rows = max(1, _BATCH // tokens.shape[1])
        self._tokens = [tokens[i : i + rows] for i in range(0, tokens.shape[0], rows)]
        self._x: list[mx.array] | None = None
        self._masks: list[dict[tuple[type, int | None], Any]] = [{} for _ in self._tokens]

    def layers(self) -> Iterator[Layer]:
        """Each block from the one that comes next, with what it is fed; the text then moves on."""
        while self.index < self.depth:
            block, self._blocks[self.index] = self._blocks[self.index], None
            assert block is not None, "a layer is loaded once"
            batches = list(zip(self.x, self._masks_for(block), strict=True))
            layer = self._layer(f"layers.{self.index}", block, batches)
            del block, batches
            yield layer
            self._x = list(layer.outputs())
            if (branches := layer.joined()) is not None:
                self._x.append(branches[0])
                self._masks.append({_kind(layer.block): branches[1]})
            self.index += 1
            # Its memory is the next one's.
            del layer

    def heads(self) -> Iterator[Layer]:
        """After the layers: each head for further tokens, where the checkpoint has them."""
        fed = self.normed()
        for i, head in enumerate(self._heads):
            assert head is not None, "a head is loaded once"
            self._heads[i] = None
            ahead = [self._embedded(tokens[:, i + 1 :]) for tokens in self._tokens]
            batches = [(x[:, :-1], y) for x, y in zip(fed, ahead, strict=True)]
            layer = self._layer(f"mtp.{i}", head, batches)
            del head, batches
            yield layer
            fed = layer.outputs()

    def branch(self, embedding: Matrix) -> None:
        """Before the layers: let the first batch go through with another embedding, too."""
        x, own = self.x, self.embed.matrix
        self.embed.matrix = embedding
        x.append(self._embedded(self._tokens[0]))
        self.embed.matrix = own
        self._masks.append({})

    @property
    def x(self) -> list[mx.array]:
        """What the next layer is fed with: (B, L, D) for each batch."""
        if self._x is None:
            self._x = [self._embedded(tokens) for tokens in self._tokens]
        return self._x

    def normed(self) -> list[mx.array]:
        """After the layers: what the output head is fed with, (B, L, D) for each batch."""
        return [self._norm(x) for x in self.x]

    def logits(self) -> Iterator[mx.array]:
        """After the layers: logits (positions, V), a few positions of the text at a time."""
        for normed in self.normed():
            flat = normed.reshape(-1, normed.shape[-1])
            for start in range(0, flat.shape[0], _POSITIONS):
                yield self.logits_of(flat[start : start + _POSITIONS])

    def logits_of(self, normed: mx.array) -> mx.array:
        """What the output head makes of some positions (positions, D)."""
        return self.head(normed) * self._logit_scale

    def state(self) -> dict[str, mx.array]:
        """What to store, to go on from this layer another day: see `restore`."""
        arrays = {f"x.{i}": x for i, x in enumerate(self.x)}
        for i, masks in enumerate(self._masks):
            for mask in masks.values():
                if isinstance(mask, Selection) and mask.chosen is not None:
                    arrays[f"chosen.{i}"] = mask.chosen
        return arrays

    def restore(self, index: int, arrays: dict[str, mx.array]) -> None:
        """Go on at a layer, with the `state` that was stored there."""
        self.index = index
        self._x = [arrays[f"x.{i}"] for i in range(len(self._tokens))]
        self._blocks[:index] = [None] * index
        # Layers that choose are of one kind, and hand on what they chose.
        for block in filter(None, self._blocks):
            for i, mask in enumerate(self._masks_for(block)):
                if isinstance(mask, Selection):
                    mask.chosen = arrays.get(f"chosen.{i}")

    def _layer(self, path: str, block: nn.Module, batches: list[tuple[Any, ...]]) -> Layer:
        linears = {f"{path}.{name}": product for name, product in stand_in(block).items()}
        return Layer(path, block, linears, batches)

    def _masks_for(self, block: nn.Module) -> list[Any]:
        """One for each batch; mixers of one type and window share it, as in the decoder."""
        kind = _kind(block)
        for x, masks in zip(self.x, self._masks, strict=True):
            if kind not in masks:
                masks[kind] = block.mixer.make_mask(x, None)
        return [masks[kind] for masks in self._masks]

    def _embedded(self, tokens: mx.array) -> mx.array:
        x = self.embed.matrix[tokens].dense() * self._embed_scale
        mx.eval(x)
        return x


def _kind(block: nn.Module) -> tuple[type, int | None]:
    """What mixers that share masks have in common."""
    return type(block.mixer), block.mixer.window


def _is_float(weight: mx.array) -> bool:
    return mx.issubdtype(weight.dtype, mx.floating)
