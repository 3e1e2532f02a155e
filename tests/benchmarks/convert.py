"""Ours beside mlx_lm.convert, in one run on the same synthetic checkpoints.

    python tests/benchmarks/convert.py FOLDER [--gigabytes 4.3] [--bits 4]

FOLDER gets a dense and a mixture-of-experts checkpoint in bfloat16, and needs room for twice that.
Each is converted by both, one after the other; then again, killed half-way and started anew.
Printed are wall time, the process's peak memory, the most bytes on the disk, and what a kill costs.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from math import prod
from pathlib import Path

import mlx.core as mx

sys.path.insert(0, str(Path(__file__).parents[1]))
import tiny

DENSE = {
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 32768,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}
MOE = {
    "model_type": "minimax_m2",
    "architectures": ["MiniMaxM2ForCausalLM"],
    "hidden_size": 1536,
    "intermediate_size": 768,
    "num_attention_heads": 24,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "rotary_dim": 32,
    "vocab_size": 32768,
    "num_local_experts": 64,
    "num_experts_per_tok": 8,
    "rms_norm_eps": 1e-6,
    "rope_theta": 5000000,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
    "use_qk_norm": True,
    "qk_norm_type": "per_layer",
    "shared_intermediate_size": 0,
    "scoring_func": "sigmoid",
    "use_routing_bias": True,
}


def dense_layer(c: dict) -> dict[str, tuple[int, ...]]:
    """The tensors of a layer of Llama, as the hub spells them."""
    d, f = c["hidden_size"], c["intermediate_size"]
    q, kv = (c[f"num_{k}_heads"] * c["head_dim"] for k in ("attention", "key_value"))
    return {
        "self_attn.q_proj": (q, d),
        "self_attn.k_proj": (kv, d),
        "self_attn.v_proj": (kv, d),
        "self_attn.o_proj": (d, q),
        "mlp.gate_proj": (f, d),
        "mlp.up_proj": (f, d),
        "mlp.down_proj": (d, f),
        "input_layernorm": (d,),
        "post_attention_layernorm": (d,),
    }


def moe_layer(c: dict) -> dict[str, tuple[int, ...]]:
    """The tensors of a layer of MiniMax M2, expert by expert."""
    layer = {n: s for n, s in dense_layer(c).items() if not n.startswith("mlp")}
    d, f = c["hidden_size"], c["intermediate_size"]
    for e in range(c["num_local_experts"]):
        expert = f"block_sparse_moe.experts.{e}"
        layer |= {f"{expert}.w1": (f, d), f"{expert}.w2": (d, f), f"{expert}.w3": (f, d)}
    kv = c["num_key_value_heads"] * c["head_dim"]
    layer["self_attn.q_norm"] = (c["num_attention_heads"] * c["head_dim"],)
    layer["self_attn.k_norm"] = (kv,)
    layer["block_sparse_moe.gate"] = (c["num_local_experts"], d)
    return layer


def make(folder: Path, config: dict, layer: dict[str, tuple[int, ...]], size: float) -> int:
    """A random checkpoint of about so many bytes, in shards of 1 GB; the bytes it has."""
    d, v = config["hidden_size"], config["vocab_size"]

    def count(shapes: dict[str, tuple[int, ...]]) -> int:
        return sum(2 * prod(shape) for shape in shapes.values())

    rest = {"model.embed_tokens": (v, d), "lm_head": (v, d), "model.norm": (d,)}
    depth = max(1, round((size - count(rest)) / count(layer)))
    names = {f"{name}.weight": shape for name, shape in rest.items()}
    for i in range(depth):
        names |= {f"model.layers.{i}.{name}.weight": shape for name, shape in layer.items()}
        if "num_local_experts" in config:
            bias = f"model.layers.{i}.block_sparse_moe.e_score_correction_bias"
            names[bias] = (config["num_local_experts"],)
    folder.mkdir(parents=True)
    groups: list[dict[str, tuple[int, ...]]] = [{}]
    for name, shape in names.items():
        if count(groups[-1] | {name: shape}) > 1e9:
            groups.append({})
        groups[-1][name] = shape
    index = {}
    for k, group in enumerate(groups):
        file = f"model-{k + 1:05d}-of-{len(groups):05d}.safetensors"
        weights = {
            name: (mx.random.normal(shape, key=mx.random.key(hash(name) % 2**32)) * 0.02).astype(
                mx.float32 if name.endswith("bias") else mx.bfloat16
            )
            for name, shape in group.items()
        }
        mx.save_safetensors(str(folder / file), weights, {"format": "pt"})
        del weights
        index |= dict.fromkeys(group, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": depth}))
    tiny.save_tokenizer(folder)
    return bytes_in(folder)


def bytes_in(*folders: Path) -> int:
    """What folders take of the disk."""
    files = (path for folder in folders if folder.exists() for path in folder.rglob("*"))
    total = 0
    for path in files:
        with suppress(FileNotFoundError):
            total += path.stat().st_blocks * 512 if path.is_file() else 0
    return total


def run(command: list[str], out: Path, kill_after: float | None = None) -> dict[str, float]:
    """Run a conversion; its seconds, peak memory, most bytes on the disk, and exit code."""
    most, over = 0, threading.Event()

    def look() -> None:
        nonlocal most
        while not over.wait(0.1):
            most = max(most, bytes_in(out, out.with_name(f"{out.name}.partial")))

    watcher = threading.Thread(target=look)
    watcher.start()
    started = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    timer = threading.Timer(kill_after or 1e6, lambda: os.kill(child.pid, signal.SIGKILL))
    timer.start()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    timer.cancel()
    seconds = time.monotonic() - started
    over.set()
    watcher.join()
    memory = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"seconds": seconds, "memory": memory, "disk": most, "code": child.returncode}


def main() -> None:
    """Measure, and print one line of JSON a run and a table at the end."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gigabytes", type=float, default=4.3)
    parser.add_argument("--bits", default="4")
    wishes = parser.parse_args()
    python = sys.executable
    rows = []
    for kind, config, layer in (("dense", DENSE, dense_layer), ("moe", MOE, moe_layer)):
        source, out = wishes.folder / kind, wishes.folder / f"{kind}-out"
        if not source.exists():
            # In a process of its own: children would count its memory as theirs.
            what = (source, config, layer(config), wishes.gigabytes * 1e9)
            maker = multiprocessing.get_context("spawn").Process(target=make, args=what)
            maker.start()
            maker.join()
        ours = [python, "-m", "mlxarch.app", "convert", str(source), str(out)]
        theirs = [python, "-m", "mlx_lm", "convert", "--hf-path", str(source)]
        theirs += ["--mlx-path", str(out), "-q", "--q-bits", wishes.bits]
        commands = {"mlxarch": [*ours, "--bits", wishes.bits], "mlx-lm": theirs}
        for who, command in commands.items():
            shutil.rmtree(out, ignore_errors=True)
            whole = run(command, out)
            written = bytes_in(out)
            shutil.rmtree(out)
            killed = run(command, out, kill_after=whole["seconds"] * 0.6)
            again = run(command, out)
            row = {"source": bytes_in(source), "out": written, **whole}
            row |= {"kind": kind, "who": who, "killed": killed["code"]}
            row |= {"again": again["code"], "again_seconds": again["seconds"]}
            row["again_bytes"] = bytes_in(out)
            rows.append(row)
            print(json.dumps(row), flush=True)
            for left in (out, out.with_name(f"{out.name}.partial")):
                shutil.rmtree(left, ignore_errors=True)
    print("| checkpoint | by | seconds | peak memory | worst on disk | same command after a kill |")
    print("|---|---|---|---|---|---|")
    for r in rows:
        after = "ends" if r["again"] == 0 else f"fails, exit {r['again']}"
        print(
            f"| {r['kind']}, {r['source'] / 1e9:.1f} GB | {r['who']} | {r['seconds']:.0f} | "
            f"{r['memory'] / 1e9:.2f} GB | {r['disk'] / 1e9:.2f} GB | {after}, "
            f"{r['again_seconds']:.0f} s |"
        )


if __name__ == "__main__":
    main()
