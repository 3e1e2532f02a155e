"""Reading a prompt, ours beside mlx-lm's, in one run on the same random weights.

    python tests/benchmarks/prefill.py [FAMILY ...] [--lengths 2048 8192 32768]

A model of each family, narrow and shallow but with every kind of layer it has, reads the same
prompt in the pieces of 2,048 tokens in which `mlx_lm.generate` reads one: mlx-lm, ours, and so on
in turn, and each is represented by its median. Only ratios mean anything. Memory is what the
process had at most while reading, less what it had before: MLX counts its own only, and part of
ours is numpy's. That both read the same is checked on the first tokens.
"""

import argparse
import ctypes
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn

import mlxarch
from mlxarch.convert import settings
from mlxarch.models import ling25

sys.path.insert(0, str(Path(__file__).parents[1]))
import tiny_configs
from close import relative
from ports import their_decays

PIECE = 2048  # mlx_lm.generate's prefill_step_size
# Longest prompt that is read more than once.
AGAIN = 2048
NARROW = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 1 << 17,
}
# Nobody asks for the last layer's output, and mlx-lm leaves it out: the others are of all kinds.
LATENT = {
    "num_hidden_layers": 2,
    "first_k_dense_replace": 2,
    "q_lora_rank": 32,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
}
DELTA = {
    "num_hidden_layers": 5,
    "partial_rotary_factor": 0.5,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 64,
    "linear_value_head_dim": 64,
}
LIGHTNING = {
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "layer_group_size": 2,
    "partial_rotary_factor": 0.5,
}
# The choice is as large as released.
SPARSE = {"index_n_heads": 2, "index_head_dim": 16, "index_topk": 2048}
# mlx-lm bars a group with zeros, and may choose from it.
UNGROUPED = {"n_group": 1, "topk_group": 1}
# Sizes of each family, over those of tests/tiny_configs.py.
SIZES = {
    "qwen35 dense": NARROW | DELTA,
    "qwen3_next": NARROW | DELTA,
    "ling25": NARROW | LATENT | LIGHTNING,
    "kimi_k25": NARROW | LATENT,
    "glm5": NARROW | LATENT | SPARSE | UNGROUPED,
}


class Run(NamedTuple):
    """A prompt that was read."""

    seconds: float
    bytes: int


def pair(family: str) -> tuple[nn.Module, nn.Module]:
    """mlx-lm's model and ours, of the same weights."""
    from mlx_lm.utils import load_model

    raw, weights = tiny_configs.saved(family, **SIZES[family])
    with tempfile.TemporaryDirectory() as folder:
        mx.save_safetensors(f"{folder}/model.safetensors", weights)
        text = json.dumps(settings.write(raw, [], None, None))
        (Path(folder) / "config.json").write_text(text)
        theirs, ours = load_model(Path(folder))[0], mlxarch.load(folder, dtype=mx.float32)
        theirs.set_dtype(mx.float32)
        mx.eval(theirs.parameters(), ours.parameters())
    return theirs, ours


def caches(model: nn.Module) -> list[Any]:
    """Empty caches of either's model."""
    from mlx_lm.models.cache import make_prompt_cache

    return make_prompt_cache(model)


def read(model: nn.Module, tokens: mx.array) -> Run:
    """Read tokens (1, L) as mlx_lm.generate does: states only, piece by piece."""
    cache, before = caches(model), resident(anew=True)
    began = time.perf_counter()
    for start in range(0, tokens.shape[1], PIECE):
        model(tokens[:, start : start + PIECE], cache=cache)
        mx.eval([entry.state for entry in cache])
        mx.clear_cache()
    return Run(time.perf_counter() - began, resident() - before)


def resident(*, anew: bool = False) -> int:
    """Bytes of memory that this process has had at most, or has, to count from there on."""
    if not Path("/proc/self/clear_refs").exists():
        if anew:
            mx.clear_cache()
            mx.reset_peak_memory()
        return mx.get_active_memory() if anew else mx.get_peak_memory()
    if anew:
        mx.clear_cache()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): the peak becomes what there is
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def compare(models: tuple[nn.Module, nn.Module], length: int, times: int) -> list[Run]:
    """Medians of mlx-lm's readings and of ours, which take turns."""
    tokens = mx.random.randint(0, NARROW["vocab_size"], (1, length), key=mx.random.key(length))
    runs = [[read(model, tokens) for model in models] for _ in range(times)]
    return [
        Run(median(run.seconds for run in side), max(run.bytes for run in side))
        for side in zip(*runs, strict=True)
    ]


def main() -> None:
    """Measure, and print a table, row by row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="*", metavar="FAMILY", help=f"of {', '.join(SIZES)}")
    parser.add_argument("--lengths", nargs="+", type=int, default=[2048, 8192, 32768])
    parser.add_argument("--times", type=int, default=3, help="readings of the shorter prompts")
    wishes = parser.parse_args()
    ling25.decays = their_decays
    print("| model | tokens | readings | mlx-lm | ours | times as fast | memory of mlx-lm's |")
    print("|---|---|---|---|---|---|---|")
    for family in wishes.families or SIZES:
        models = pair(family)
        start = mx.random.randint(0, NARROW["vocab_size"], (1, 64), key=mx.random.key(0))
        theirs, ours = (model(start) for model in models)
        assert (error := relative(ours, theirs)) < 1e-3, f"{family} differs by {error:.0e}"
        for length in wishes.lengths:
            times = wishes.times if length <= AGAIN else 1
            theirs, ours = compare(models, length, times)
            print(
                f"| {family} | {length} | {times} | "
                f"{theirs.seconds:.2f} s, {theirs.bytes / 1e6:.0f} MB | "
                f"{ours.seconds:.2f} s, {ours.bytes / 1e6:.0f} MB | "
                f"{theirs.seconds / ours.seconds:.2f} | {ours.bytes / theirs.bytes:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
