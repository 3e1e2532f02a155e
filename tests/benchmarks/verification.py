"""What it costs to feed a few tokens at once to a model with a long cache, as verification does.

    python tests/benchmarks/verification.py [KIND ...] [--cache 4096] [--times 15]

For each kind of layer there is a narrow and shallow model. In turn 1 to 8 tokens are fed to it
while `drafting`, and all but one are taken back. Printed are medians as ratios to that of one
token: what reads weights and cache once for all tokens stays near 1 where memory is the limit.
"""

import argparse
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import mlx.core as mx

from mlxarch.decoder import Decoder
from mlxarch.rollback import drafting, step_back

sys.path.insert(0, str(Path(__file__).parents[1]))
import tiny_configs

COUNTS = range(1, 9)
WIDE = {
    "hidden_size": 256,
    "intermediate_size": 256,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
}
LATENT = {
    "num_hidden_layers": 2,
    "first_k_dense_replace": 2,
    "q_lora_rank": 128,
    "kv_lora_rank": 128,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 32,
    "v_head_dim": 64,
}
DELTA = {
    "linear_num_key_heads": 4,
    "linear_num_value_heads": 8,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "partial_rotary_factor": 0.5,
}
LINEAR = {"num_key_value_heads": 8, "layer_group_size": 3, "partial_rotary_factor": 0.5}
SPARSE = {"index_n_heads": 4, "index_head_dim": 64, "index_topk": 1024}
# A family with the kind of layer, and its sizes over those of tests/tiny_configs.py.
KINDS = {
    "full": ("nanbeige41", WIDE),
    "window": ("tiny_aya", WIDE | {"sliding_window": 1024, "num_hidden_layers": 3}),
    "latent": ("kimi_k25", WIDE | LATENT),
    "sparse": ("glm5", WIDE | LATENT | SPARSE),
    "delta": ("qwen35 dense", WIDE | DELTA | {"num_hidden_layers": 3}),
    "lightning": ("ling25", WIDE | LATENT | LINEAR | {"num_hidden_layers": 3}),
}


def seconds(model: Decoder, caches: list[Any], count: int) -> float:
    """Feed so many tokens and take back all but the first, which stays."""
    tokens = mx.arange(count)[None]
    began = time.perf_counter()
    with drafting(caches):
        logits = model(tokens, cache=caches)
    mx.eval(logits)
    step_back(caches, count - 1)
    mx.eval([cache.state for cache in caches])
    return time.perf_counter() - began


def main() -> None:
    """Measure, and print a table, row by row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(KINDS)}")
    parser.add_argument("--cache", type=int, default=4096, help="tokens")
    parser.add_argument("--times", type=int, default=15)
    wishes = parser.parse_args()
    print("| layers | one token |", " | ".join(f"{count} tokens" for count in COUNTS), "|")
    print("|---" * (2 + len(COUNTS)) + "|")
    for kind in wishes.kinds or KINDS:
        family, sizes = KINDS[kind]
        model = tiny_configs.model(family, **sizes)
        caches = model.make_cache()
        for start in range(0, wishes.cache, 512):
            model(mx.arange(start, start + 512)[None] % tiny_configs.VOCAB, cache=caches)
            mx.eval([cache.state for cache in caches])
        taken: dict[int, list[float]] = {count: [] for count in COUNTS}
        for _ in range(wishes.times):
            for count in COUNTS:
                taken[count].append(seconds(model, caches, count))
        medians = [median(taken[count]) for count in COUNTS]
        ratios = " | ".join(f"{each / medians[0]:.2f}" for each in medians)
        print(f"| {kind} | {medians[0] * 1e3:.1f} ms | {ratios} |", flush=True)


if __name__ == "__main__":
    main()
