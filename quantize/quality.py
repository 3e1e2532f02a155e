"""What quantization costs: how far a model's next-token distributions have moved.

Both models read the same text side by side, with one layer of each in memory and their logits
compared a few positions at a time, so that a model too large for this machine can still be
measured. They compute in float32 everywhere: the figures are those of the weights, not of a device.

A standard error is that of a mean over positions, as if positions were independent.

Source: the statistics of llama.cpp, tools/perplexity/perplexity.cpp, `kl_divergence`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from statistics import fmean, quantiles, stdev
from typing import cast

import mlx.core as mx

from mlxarch import registry, shards
from mlxarch.compat import load_tokenizer
from mlxarch.errors import CheckpointError, FormatError
from mlxarch.files import check_folder

from .stream import Stream

# Stretches of the text, each read without the others, and their tokens.
_STRETCHES, _TOKENS = 4, 512
_FEWEST = 100
_STRIDE = 64  # positions whose distributions are compared at once


@dataclass(frozen=True)
class Text:
    """What is read: tokens (N, L), N stretches that do not see each other."""

    name: str
    tokens: mx.array

    @property
    def is_noise(self) -> bool:
        """Whether there was no tokenizer to read with."""
        return self.name.startswith("noise")


@dataclass(frozen=True)
class Quality:
    """A quantized model against the one it was made from; divergences are in nats."""

    perplexity: float
    original_perplexity: float
    perplexity_ratio: float
    perplexity_ratio_standard_error: float
    mean_kl: float  # KL(original || quantized), mean over positions
    mean_kl_standard_error: float
    median_kl: float
    kl_90: float  # 90 per cent of positions are below
    kl_99: float
    max_kl: float
    top1_agreement: float  # share of positions at which both find the same token likeliest
    top1_agreement_standard_error: float
    tokens: int  # that were read
    positions: int  # that were compared: those whose next token the text holds
    text: str
    kl_percentiles: tuple[float, ...]  # 0, 1, ... 100
    layer_errors: tuple[float, ...]  # ‖quantized - original‖ / ‖original‖ after each layer


def read_text(
    folder: Path, file: Path | None = None, own: str = "sample.txt", stretches: int = _STRETCHES
) -> Text:
    """A text, by a checkpoint's own tokenizer where it has one that can be loaded.

    Args:
        file: In UTF-8; None is `own`, a text that ships with mlxarch.
        stretches: How many are read at most.

    Raises: FormatError if the file is too short to measure anything.
    """
    raw = shards.read_config(folder)
    vocab = registry.find(raw).model.Config.from_hub(raw).vocab
    source = files("mlxarch.quantize").joinpath(own) if file is None else file
    words = source.read_bytes().decode("utf-8", errors="replace")
    check_folder(folder)
    try:
        tokenizer = load_tokenizer(folder, {"trust_remote_code": False})
        start = tokenizer.encode("")
        tokens = tokenizer.encode(words, add_special_tokens=False, verbose=False)
        fits = max(start + tokens, default=0) < vocab
        reason = None if fits else "the tokenizer has more tokens than the model"
        # What transformers makes of a folder without a tokenizer's files.
        reason = reason if tokens else "the tokenizer knows no words"
    except Exception as error:
        # Whatever a tokenizer's files may lack or ask for, there is another way to measure.
        reason = f"no tokenizer can be loaded ({type(error).__name__})"
    if reason is not None:
        noise = mx.random.randint(0, vocab, (stretches, _TOKENS), key=mx.random.key(0))
        return Text(f"noise, since {reason}", noise)
    if file is not None and len(tokens) < _FEWEST:
        raise FormatError(
            f"{file} has {len(tokens)} tokens; {_FEWEST} are needed to measure anything."
        )
    each = min(_TOKENS - len(start), len(tokens))
    count = min(stretches, len(tokens) // each)
    rows = [start + tokens[i * each : (i + 1) * each] for i in range(count)]
    return Text("the text that comes with mlxarch" if file is None else file.name, mx.array(rows))


def compare(
    original: Stream,
    quantized: Stream,
    text: Text,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Quality:
    """Let two checkpoints of one model, which have read nothing yet, read the same text.

    Args:
        original, quantized: Both at the start of `text`.
        progress: Called with the steps that are done, and all of them: layers and the head.

    Raises: CheckpointError if one of them computes what is no number.
    """
    total, layer_errors = original.depth + 1, []
    walks = original.layers(), quantized.layers()
    # Nothing but a walk holds its layer, so that it is gone before the next one is read.
    while all([next(walk, None) is not None for walk in walks]):
        if original.index:
            layer_errors.append(_distance(original.x, quantized.x))
        progress(original.index, total)
    layer_errors.append(_distance(original.x, quantized.x))
    progress(original.depth, total)
    found = _Positions(text.tokens)
    for before, after in zip(original.logits(), quantized.logits(), strict=True):
        found.add(before, after)
    progress(total, total)
    return found.quality(text, layer_errors)


class _Positions:
    """What is known of each position, while logits come in."""

    def __init__(self, tokens: mx.array):
        rows = cast(list[list[int]], tokens.tolist())
        # The token that follows each position; none follows the last of a stretch.
        self._next = [token for row in rows for token in [*row[1:], -1]]
        self._seen = 0
        # For each position: how much what follows surprises the original and the quantized model,
        # in nats; their divergence; whether they agree.
        self._before, self._after, self._kl, self._same = self._columns = ([], [], [], [])

    def add(self, before: mx.array, after: mx.array) -> None:
        """Logits (positions, V) of both models at the positions that come next."""
        for start in range(0, before.shape[0], _STRIDE):
            part = slice(start, start + _STRIDE)
            self._compare(before[part], after[part])

    def _compare(self, p: mx.array, q: mx.array) -> None:
        wanted = self._next[self._seen : self._seen + p.shape[0]]
        self._seen += p.shape[0]
        log_p = p - mx.logsumexp(p, axis=-1, keepdims=True)
        log_q = q - mx.logsumexp(q, axis=-1, keepdims=True)
        # Rounding may leave a hair below zero.
        kl = mx.maximum((mx.exp(log_p) * (log_p - log_q)).sum(-1), 0)
        next_token = mx.maximum(mx.array(wanted), 0)[:, None]
        before, after = (
            -mx.take_along_axis(log, next_token, axis=-1)[:, 0] for log in (log_p, log_q)
        )
        same = (p.argmax(-1) == q.argmax(-1)).astype(mx.float32)
        rows = cast(list[list[float]], mx.stack([before, after, kl, same], axis=-1).tolist())
        for token, row in zip(wanted, rows, strict=True):
            if token < 0:
                continue
            if not all(map(math.isfinite, row)):
                raise CheckpointError(
                    f"After {len(self._kl)} positions a model's logits are no numbers; "
                    "a weight is damaged or out of the range of its type."
                )
            for column, value in zip(self._columns, row, strict=True):
                column.append(value)

    def quality(self, text: Text, layer_errors: Sequence[float]) -> Quality:
        """The statistics of all positions."""
        worse = [after - before for after, before in zip(self._after, self._before, strict=True)]
        ratio = math.exp(fmean(worse))
        cuts = (min(self._kl), *quantiles(self._kl, n=100, method="inclusive"), max(self._kl))
        agreed, count = fmean(self._same), len(self._same)
        return Quality(
            perplexity=math.exp(fmean(self._after)),
            original_perplexity=math.exp(fmean(self._before)),
            perplexity_ratio=ratio,
            perplexity_ratio_standard_error=ratio * _standard_error(worse),
            mean_kl=fmean(self._kl),
            mean_kl_standard_error=_standard_error(self._kl),
            median_kl=cuts[50],
            kl_90=cuts[90],
            kl_99=cuts[99],
            max_kl=cuts[100],
            top1_agreement=agreed,
            top1_agreement_standard_error=math.sqrt(agreed * (1 - agreed) / (count - 1)),
            tokens=text.tokens.size,
            positions=count,
            text=text.name,
            kl_percentiles=cuts,
            layer_errors=tuple(layer_errors),
        )


def _standard_error(values: Sequence[float]) -> float:
    return stdev(values) / math.sqrt(len(values))


def _distance(before: Sequence[mx.array], after: Sequence[mx.array]) -> float:
    """‖after - before‖ / ‖before‖ over all batches."""
    lost = sum(float((b - a).square().sum()) for a, b in zip(before, after, strict=True))
    norm = sum(float(a.square().sum()) for a in before)
    return math.sqrt(lost / norm) if norm else 0.0
