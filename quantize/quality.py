"""What quantization costs: how far a model's next-token distributions have moved.

Both models read the same text, one layer in memory at a time, so that a model too large for this
machine can still be measured before and after. They compute in float32 everywhere: the figures
are those of the weights, not of a device.

Source: the statistics of llama.cpp, tools/perplexity, `--kl-divergence`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map

from mlxarch import checkpoint, registry, shards
from mlxarch.compat import load_tokenizer

_TOKENS = 512  # of the text: the logits of one model are held in memory
_STRIDE = 64  # positions compared at once


@dataclass(frozen=True)
class Quality:
    """A quantized model against the one it was made from."""

    mean_kl: float  # nats, KL(original || quantized), mean over positions
    top1_agreement: float  # share of positions at which both find the same token likeliest
    tokens: int
    text: str  # what they read


def compare(
    original: Path, quantized: Path, progress: Callable[[int, int], None] | None = None
) -> Quality:
    """Let two checkpoints of one model read the text that ships with mlxarch.

    Args:
        progress: Called with the layers that are done, of both models, and all of them.
    """
    text, tokens = _read_text(original)
    done = 0

    def step(depth: int) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, 2 * depth)

    before = _logits(original, tokens, step)
    after = _logits(quantized, tokens, step)
    kl, agreement = divergence(before, after)
    return Quality(kl, agreement, tokens.size, text)


def divergence(before: mx.array, after: mx.array) -> tuple[float, float]:
    """Mean KL(before || after) and top-1 agreement of two sets of logits (L, V)."""
    kl = agreed = 0.0
    for start in range(0, before.shape[0], _STRIDE):
        p, q = before[start : start + _STRIDE], after[start : start + _STRIDE]
        log_p = p - mx.logsumexp(p, axis=-1, keepdims=True)
        log_q = q - mx.logsumexp(q, axis=-1, keepdims=True)
        kl += float((mx.exp(log_p) * (log_p - log_q)).sum())
        agreed += float((p.argmax(-1) == q.argmax(-1)).sum())
    return kl / before.shape[0], agreed / before.shape[0]


def _read_text(folder: Path) -> tuple[str, mx.array]:
    """What is read, and its tokens (1, L) by the checkpoint's own tokenizer where it has one."""
    raw = shards.read_config(folder)
    vocab = registry.find(raw).model.Config.from_hub(raw).vocab
    sample = files("mlxarch.quantize").joinpath("sample.txt").read_text(encoding="utf-8")
    try:
        tokens = load_tokenizer(folder, {"trust_remote_code": False}).encode(sample)[:_TOKENS]
        reason = None if max(tokens) < vocab else "the tokenizer has more tokens than the model"
    except Exception as error:
        # Whatever a tokenizer's files may lack or ask for, there is another way to measure.
        reason = f"no tokenizer can be loaded ({type(error).__name__})"
    if reason is None:
        return "the text that comes with mlxarch", mx.array([tokens])
    tokens = mx.random.randint(0, vocab, (1, _TOKENS), key=mx.random.key(0))
    return f"noise, since {reason}", tokens


def _logits(folder: Path, tokens: mx.array, step: Callable[[int], None]) -> mx.array:
    """The logits (L, V) of a checkpoint, whose layers are loaded one by one and forgotten."""
    raw = shards.read_config(folder)
    model = checkpoint.assemble(raw, checkpoint.as_type(raw, checkpoint.read(folder), mx.float32))
    depth = len(model.layers)
    model.layers = [_Once(block, lambda: step(depth)) for block in model.layers]
    logits = model(tokens)[0]
    mx.eval(logits)
    return logits


class _Once(nn.Module):
    """A block that is computed at once and then forgets its weights."""

    def __init__(self, block: nn.Module, step: Callable[[], None]):
        super().__init__()
        self.block, self.mixer, self.step = block, block.mixer, step

    def __call__(self, x: mx.array, mask=None, cache=None) -> mx.array:
        x = self.block(x, mask, cache)
        mx.eval(x)
        self.block.update(tree_map(lambda _: mx.array(0), self.block.parameters()))
        mx.clear_cache()
        self.step()
        return x
