"""What a token costs beside the device's own work, ours beside mlx-lm's `generate_step`.

    python tests/benchmarks/decoding.py [FAMILY ...] [--tokens 100] [--rounds 5]

On Metal and CUDA a step is built in Python and handed to the device while the one before is at
work: as long as that is quick enough it costs nothing, and else it is the limit. So on the CPU,
where MLX computes on a thread of its own, this is the time that the calling thread itself computes
for a token, without waiting: building the graph, handing it over, the loop around it. Tiny models
of every family, told that the device is Metal, greedy, take turns with mlx-lm's of the same
weights; printed are medians of the rounds' means in microseconds, with the least and the most, and
the median of the rounds' ratios.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlxarch import backend
from mlxarch.cache import Past
from mlxarch.convert import settings
from mlxarch.generate import Answer
from mlxarch.models import ling25

sys.path.insert(0, str(Path(__file__).parents[1]))
import prefill
import tiny_configs
from close import relative

FAMILIES = [family for family in tiny_configs.CONFIGS if family != "glm5 shared"]  # not mlx-lm's
# What mlx-lm takes in no other way.
CHANGES = {
    "glm5": prefill.UNGROUPED,
    "kimi_k25": prefill.UNGROUPED,
    "tiny_aya": {"hidden_size": 40},
}
PROMPT = list(range(5, 25))


def pair(family: str) -> tuple[nn.Module, nn.Module]:
    """mlx-lm's model and ours, of the same weights."""
    from mlx_lm.utils import load_model

    changes = CHANGES.get(family, {})
    raw, weights = tiny_configs.saved(family, **changes)
    with tempfile.TemporaryDirectory() as folder:
        mx.save_safetensors(f"{folder}/model.safetensors", weights)
        text = json.dumps(settings.write(raw, [], None, None))
        (Path(folder) / "config.json").write_text(text)
        theirs = load_model(Path(folder))[0]
        theirs.set_dtype(mx.float32)
        mx.eval(theirs.parameters())
    return theirs, tiny_configs.model(family, **changes).eval()


def each(run: Callable[[], Iterable[Any]], count: int) -> float:
    """Seconds of this thread for each of so many tokens, the first ones left out."""
    tokens, left = iter(run()), count // 4
    for _ in range(left):
        next(tokens)
    began = time.thread_time()
    for _ in range(count - left - 1):
        next(tokens)
    return (time.thread_time() - began) / (count - left - 1)


def compare(family: str, count: int, rounds: int) -> list[list[float]]:
    """Seconds a token of each round: mlx-lm's and ours."""
    from mlx_lm.generate import generate_step

    theirs, ours = pair(family)
    runs = [
        lambda: generate_step(mx.array(PROMPT), theirs, max_tokens=count),
        lambda: Answer(ours, PROMPT, Past(ours), max_tokens=count),
    ]
    start = mx.array([PROMPT[:6]])
    assert (error := relative(ours(start), theirs(start))) < 1e-3, f"{family}: {error:.0e}"
    found = [[each(run, count) for run in runs] for _ in range(rounds)]
    return [list(side) for side in zip(*found, strict=True)]


def main() -> None:
    """Measure, and print a table, row by row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="*", metavar="FAMILY", help=f"of {', '.join(FAMILIES)}")
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    wishes = parser.parse_args()
    ling25.decays, backend.device = prefill.their_decays, lambda: "Metal"
    print("| model | mlx-lm, us | ours, us | times as fast |\n|---|---|---|---|")
    for family in wishes.families or FAMILIES:
        sides = compare(family, wishes.tokens, wishes.rounds)
        figures = [f"{median(s) * 1e6:.0f} ({min(s) * 1e6:.0f}-{max(s) * 1e6:.0f})" for s in sides]
        ratio = median(a / b for a, b in zip(*sides, strict=True))
        print(f"| {family} | {figures[0]} | {figures[1]} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
