"""A cache in 8 and 4 bits: what it costs in quality, in time and in memory.

    python tests/benchmarks/kv.py quality [SOURCE] [--text FILE]
    python tests/benchmarks/kv.py cost [--tokens 2048 16384] [--kinds attention latent]

`quality` reads a text with a checkpoint, the guide if none is named, and compares its predictions
under a quantized cache with those under a plain one. `cost` feeds random numbers to one layer of
attention (16 heads that share 8 of 128, or 16 heads on latents of 512), whose cache holds so many
tokens: unquantized, quantized, and with mlx-lm's QuantizedKVCache where that runs. Variants take
turns; times are medians, peaks are what is held beyond weights and cache.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from importlib.resources import files
from pathlib import Path
from statistics import fmean, median, quantiles
from typing import Any

import mlx.core as mx
import mlx.nn as nn

import mlxarch
from mlxarch.app import guide
from mlxarch.blocks.attention import Attention
from mlxarch.blocks.mla import LatentAttention
from mlxarch.cache import Past
from mlxarch.compat import load_tokenizer

LENGTH, PIECE = 2000, 128  # tokens of a stretch of text, and of a piece that is read at once
DIM = 64
VARIANTS = ("plain", "8 bits", "4 bits", "mlx-lm, 8 bits", "mlx-lm, 4 bits")


def read(model: Any, tokens: list[int], bits: int | None) -> tuple[mx.array, float]:
    """Log probabilities (L, V) of a text that is read in pieces, and the cache's bytes a token."""
    past, found = Past(model, bits), []
    for start in range(0, len(tokens), PIECE):
        piece = mx.array([tokens[start : start + PIECE]])
        logits = model(piece, cache=past.caches)[0].astype(mx.float32)
        found.append(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
        mx.eval(found[-1])
    held = -(-len(tokens) // 256) * 256  # caches grow in such steps
    return mx.concatenate(found), past.nbytes / held


def quality(source: Path, text: Path | None, most: int) -> None:
    """A row for each number of bits and each part of the context."""
    model, tokenizer = mlxarch.load(str(source)), load_tokenizer(source)
    words = (text or files("mlxarch.quantize").joinpath("calibration.txt")).read_text()
    tokens = tokenizer.encode(words)
    starts = range(0, len(tokens) - LENGTH + 1, LENGTH)[:most]
    stretches = [tokens[start : start + LENGTH] for start in starts]
    rows: dict[tuple[int, str], list[tuple[float, bool]]] = {}
    sizes: dict[int | None, float] = {}
    for stretch in stretches:
        plain, sizes[None] = read(model, stretch, None)
        for bits in (8, 4):
            found, sizes[bits] = read(model, stretch, bits)
            kl = (mx.exp(plain) * (plain - found)).sum(axis=-1).tolist()
            same = (plain.argmax(axis=-1) == found.argmax(axis=-1)).tolist()
            pairs = list(zip(kl, same, strict=True))
            for start, stop in ((0, 500), (500, 1000), (1000, LENGTH)):
                rows.setdefault((bits, f"{start} to {stop}"), []).extend(pairs[start:stop])
    print(f"{source.name}: {len(stretches)} stretches of {LENGTH} tokens; {mx.default_device()}")
    print("| cache | bytes a token | context | mean KL | 99 % below | same first choice |")
    print("|---|---|---|---|---|---|")
    print(f"| plain | {sizes[None]:,.0f} | | 0 | 0 | 100 % |")
    for (bits, context), pairs in rows.items():
        kl = [pair[0] for pair in pairs]
        print(
            f"| {bits} bits | {sizes[bits]:,.0f} | {context} | {fmean(kl):.2g} "
            f"| {quantiles(kl, n=100)[98]:.2g} | {fmean(pair[1] for pair in pairs):.2%} |"
        )


def layer(kind: str) -> nn.Module:
    """One layer to attend with."""
    if kind == "attention":
        return Attention(DIM, 16, 8, 128, rope=nn.RoPE(128))
    return LatentAttention(
        DIM,
        16,
        query_rank=64,
        rank=512,
        head_dim=128,
        rotated_dim=64,
        value_dim=128,
        rope=nn.RoPE(64),
        norm_eps=1e-6,
    )


def empty(block: Any, variant: str) -> Any:
    """A cache for it; mlx-lm's own for comparison."""
    if variant.startswith("mlx-lm"):
        from mlx_lm.models.cache import QuantizedKVCache

        return QuantizedKVCache(group_size=64, bits=int(variant.split()[1]))
    return block.make_cache(None if variant == "plain" else int(variant.split()[0]))


def fill(cache: Any, kind: str, tokens: int) -> None:
    """Give a cache random rows."""
    heads, key, value = (8, 128, 128) if kind == "attention" else (1, 512, 64)
    for start in range(0, tokens, 1024):
        rows = min(1024, tokens - start)
        k, v = (mx.random.normal((1, heads, rows, size)) for size in (key, value))
        cache.update_and_fetch(k, v)
        mx.eval(cache.state)


def timed(step: Callable[[], mx.array]) -> tuple[float, float]:
    """Seconds of a step, and bytes it needed beyond what was there."""
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    began = time.perf_counter()
    mx.eval(step())
    return time.perf_counter() - began, mx.get_peak_memory() - before


def feed(block: Any, cache: Any, x: mx.array) -> mx.array:
    """What a layer makes of x (1, L, D), which is then cut off its cache again."""
    out = block(x, block.make_mask(x, cache), cache)
    mx.eval(out)
    cache.trim(x.shape[1])
    return out


def cost(kind: str, tokens: int, pieces: tuple[int, ...], rounds: int) -> None:
    """A row for each variant."""
    block = layer(kind).eval()
    mx.eval(block.parameters())
    caches, steps = {}, {}
    for variant in VARIANTS:
        cache = empty(block, variant)
        fill(cache, kind, tokens)
        caches[variant] = cache.nbytes
        for length in pieces:
            x = mx.random.normal((1, length, DIM))
            mx.eval(x)
            steps[variant, length] = partial(feed, block, cache, x)
    found: dict[tuple[str, int], list[tuple[float, float]]] = {key: [] for key in steps}
    for _ in range(rounds):
        for key, step in steps.items():
            try:
                found[key].append(timed(step))
            except Exception:
                found[key].append((float("nan"), float("nan")))
    for variant in VARIANTS:
        cells = [f"| {kind} | {tokens:,} | {variant} | {caches[variant] / tokens:,.0f} "]
        for length in pieces:
            seconds, peak = (median(column) for column in zip(*found[variant, length], strict=True))
            base = median(run[0] for run in found["plain", length])
            cells.append(f"| {seconds * 1e3:.1f} ms, {seconds / base:.2f}x | {peak / 1e6:.1f} MB ")
        print("".join(cells) + "|", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("quality", "cost"))
    parser.add_argument("source", type=Path, nargs="?", default=guide.PATH)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--stretches", type=int, default=3)
    parser.add_argument("--tokens", type=int, nargs="+", default=[2048, 16384])
    parser.add_argument("--kinds", nargs="+", default=["attention", "latent"])
    parser.add_argument("--pieces", type=int, nargs="+", default=[1, 4, 128])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if options.what == "quality":
        quality(options.source, options.text, options.stretches)
        return
    pieces = "".join(f"| {length} at once | peak " for length in options.pieces)
    print(f"{mx.default_device()}\n| layer | tokens | cache | bytes a token {pieces}|")
    print("|---" * (4 + 2 * len(options.pieces)) + "|")
    for kind in options.kinds:
        for tokens in options.tokens:
            cost(kind, tokens, tuple(options.pieces), options.rounds)


if __name__ == "__main__":
    main()
