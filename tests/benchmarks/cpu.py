"""Ours beside mlx-lm on the CPU, in one run on the same 4-bit weights.

    python tests/benchmarks/cpu.py FOLDER [--layers 28] [--rounds 3]

FOLDER gets a random checkpoint of the shape of Qwen3-0.6B (335 MB). mlx-lm runs as it ships, in
bfloat16, and with its weights cast to float32; ours computes in float32 in any case. All take
turns, round after round; printed are the medians of tokens a second, and how often they go into
ours. As mlx-lm is slow, it gets shorter prompts and fewer tokens: its work grows with their number.

Then, what verifying several drafted tokens costs beside one; and the built-in guide, as the chat
decodes it, beside mlx-lm's `generate_step` in float32.
"""

import argparse
import json
import statistics
from pathlib import Path
from time import perf_counter

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

import mlxarch
from mlxarch import checkpoint
from mlxarch.cache import Past
from mlxarch.generate import Answer

SHAPE = {
    "model_type": "llama",
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "max_position_embeddings": 40960,
    "tie_word_embeddings": True,
}
# Name, tokens of the prompt, tokens generated.
RUNS = [("mlx-lm, bfloat16", 4, 2), ("mlx-lm, float32", 16, 4), ("mlxarch", 256, 24)]


def write(folder, layers):
    """A random checkpoint, 4 bits in groups of 64, as mlx-lm writes them."""
    from mlx_lm.models import llama

    folder.mkdir(parents=True, exist_ok=True)
    packing = {"group_size": 64, "bits": 4}
    raw = {**SHAPE, "num_hidden_layers": layers, "quantization": packing}
    (folder / "config.json").write_text(json.dumps(raw))
    model = llama.Model(llama.ModelArgs.from_dict({**SHAPE, "num_hidden_layers": layers}))
    model.set_dtype(mx.bfloat16)
    nn.quantize(model, **packing)
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())))


def loaded(name, folder):
    """A model, and what reads a prompt into its cache."""
    if name == "mlxarch":
        model = checkpoint.load(folder)
        return model, model.hidden
    from mlx_lm.utils import load_model

    model, _ = load_model(folder)
    if name.endswith("float32"):
        model.set_dtype(mx.float32)
    return model, model


def seconds(model, read, prompt, count):
    """Seconds a token of the prompt, and of what follows it."""
    from mlx_lm.models.cache import make_prompt_cache

    cache = make_prompt_cache(model)
    ids = mx.random.randint(0, SHAPE["vocab_size"], (1, prompt), key=mx.random.key(0))
    began = perf_counter()
    read(ids, cache)
    mx.eval([entry.state for entry in cache])
    prefill = (perf_counter() - began) / prompt
    token, each = ids[:, -1:], []
    for _ in range(count):
        began = perf_counter()
        token = mx.argmax(model(token, cache)[:, -1:], axis=-1)
        mx.eval(token)
        each.append(perf_counter() - began)
    return prefill, statistics.median(each)


def verifying(model, most, rounds):
    """Seconds of a step of 1, 2 ... tokens at once, taken in turns."""
    cache = model.make_cache()
    ids = mx.random.randint(0, SHAPE["vocab_size"], (1, 64), key=mx.random.key(0))
    mx.eval(model(ids, cache))
    each = {count: [] for count in range(1, most + 1)}
    for _ in range(rounds):
        for count, found in each.items():
            began = perf_counter()
            mx.eval(mx.argmax(model(ids[:, :count], cache), axis=-1))
            found.append(perf_counter() - began)
            for entry in cache:
                entry.trim(count)
    return [statistics.median(found) for found in each.values()]


def guided(rounds, count=100):
    """Tokens a second of the guide: with mlx-lm, and with ours."""
    from mlx_lm.generate import generate_step

    folder = Path(mlxarch.__file__).parents[1] / "app/guide/model"
    (theirs, _), (ours, _) = loaded("mlx-lm, float32", folder), loaded("mlxarch", folder)
    prompt = list(range(5, 25))
    each = {
        "mlx-lm": lambda: generate_step(mx.array(prompt), theirs, max_tokens=count),
        "mlxarch": lambda: Answer(ours, prompt, Past(ours), max_tokens=count),
    }
    found = {name: [] for name in each}
    for _ in range(rounds + 1):
        for name, run in each.items():
            began = perf_counter()
            for _token in run():
                pass
            found[name].append(count / (perf_counter() - began))
    return [statistics.median(rates[1:]) for rates in found.values()]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    write(options.folder, options.layers)
    models = {name: loaded(name, options.folder) for name, *_ in RUNS}
    seconds(*models["mlxarch"], 8, 2)
    found = {name: [] for name in models}
    for _ in range(options.rounds):
        for name, prompt, count in RUNS:
            found[name].append(seconds(*models[name], prompt, count))
    rates = {
        name: [1 / statistics.median(column) for column in zip(*rows, strict=True)]
        for name, rows in found.items()
    }
    print(f"{'tokens a second':<20}{'prefill':>10}{'decode':>10}{'ours is':>12}")
    ours = rates["mlxarch"]
    for name, (prefill, decode) in rates.items():
        times = f"{ours[0] / prefill:.0f} x, {ours[1] / decode:.1f} x"
        print(f"{name:<20}{prefill:>10.2f}{decode:>10.2f}{times:>16}")
    one, *more = verifying(models["mlxarch"][0], 8, 4 * options.rounds)
    costs = ", ".join(f"{count} {cost / one:.2f}" for count, cost in enumerate(more, 2))
    print(f"Tokens verified at once, in steps of one: {costs}")
    theirs, ours = guided(options.rounds)
    print(f"The guide: {ours:.0f} tokens a second, {ours / theirs:.2f} x mlx-lm")


if __name__ == "__main__":
    main()
