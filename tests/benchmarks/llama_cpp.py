"""Ours beside llama.cpp on the CPU: the shape of Qwen3-0.6B in 4 bits, random weights, in one run.

    pip install gguf xllamacpp
    taskset -c 0 python tests/benchmarks/llama_cpp.py FOLDER [--rounds 5]

FOLDER gets a checkpoint in MLX's format, groups of 64, and a GGUF in Q4_0 (340 MB each). Both
read the same number of tokens and say as many, in turns, and are measured by the time that this
process computes: that is what a token costs whoever else uses the machine, as long as there is one
core. On several cores llama.cpp's threads spin while they wait, so that only an idle machine says
something about it. What llama.cpp was built for is printed; a wheel may know less than the CPU.
"""

import argparse
import sys
import time
from pathlib import Path
from statistics import median

import mlx.core as mx
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import cpu

from mlxarch import backend, checkpoint

LAYERS, BLOCK = 28, 32


def write(file: Path) -> None:
    """A random GGUF, every matrix in Q4_0: 32 numbers share a half, then 16 bytes."""
    import gguf

    shape, draw = cpu.SHAPE, np.random.default_rng(0)
    dim, hidden, head = shape["hidden_size"], shape["intermediate_size"], shape["head_dim"]
    vocab, heads, kv_heads = (
        shape[key] for key in ("vocab_size", "num_attention_heads", "num_key_value_heads")
    )
    out = gguf.GGUFWriter(str(file), "llama")
    for add, value in [
        (out.add_block_count, LAYERS),
        (out.add_context_length, shape["max_position_embeddings"]),
        (out.add_embedding_length, dim),
        (out.add_feed_forward_length, hidden),
        (out.add_head_count, heads),
        (out.add_head_count_kv, kv_heads),
        (out.add_key_length, head),
        (out.add_value_length, head),
        (out.add_layer_norm_rms_eps, shape["rms_norm_eps"]),
        (out.add_rope_dimension_count, head),
        (out.add_rope_freq_base, shape["rope_theta"]),
        (out.add_vocab_size, vocab),
        (out.add_file_type, 2),
        (out.add_tokenizer_model, "llama"),
        # A first token that is unknown, bytes, and words.
        (
            out.add_token_list,
            ["<unk>", *(f"<0x{i:02X}>" for i in range(256))]
            + [f"w{i}" for i in range(vocab - 257)],
        ),
        (out.add_token_scores, [0.0] * vocab),
        (out.add_token_types, [2] + [6] * 256 + [1] * (vocab - 257)),
    ]:
        add(value)

    def matrix(name, rows, columns):
        blocks = draw.integers(0, 256, (rows * columns // BLOCK, 18), dtype=np.uint8)
        steps = draw.uniform(0.1, 0.3, len(blocks)) * columns**-0.5
        blocks[:, :2] = steps.astype(np.float16).view(np.uint8).reshape(-1, 2)
        packed = blocks.reshape(rows, columns // BLOCK * 18)
        out.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType.Q4_0)

    matrix("token_embd.weight", vocab, dim)
    for name in ("output", *(f"blk.{i}.{part}" for i in range(LAYERS) for part in ("attn", "ffn"))):
        out.add_tensor(f"{name}_norm.weight", np.ones(dim, np.float32))
    for i in range(LAYERS):
        matrix(f"blk.{i}.attn_q.weight", heads * head, dim)
        matrix(f"blk.{i}.attn_k.weight", kv_heads * head, dim)
        matrix(f"blk.{i}.attn_v.weight", kv_heads * head, dim)
        matrix(f"blk.{i}.attn_output.weight", dim, heads * head)
        matrix(f"blk.{i}.ffn_gate.weight", hidden, dim)
        matrix(f"blk.{i}.ffn_up.weight", hidden, dim)
        matrix(f"blk.{i}.ffn_down.weight", dim, hidden)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def server(file: Path):
    """Llama.cpp with a GGUF, on as many threads as ours."""
    import xllamacpp

    wishes = xllamacpp.CommonParams()
    wishes.model.path = str(file)
    wishes.n_ctx, wishes.n_parallel, wishes.warmup = 512, 1, False
    wishes.cpuparams.n_threads = wishes.cpuparams_batch.n_threads = backend.cores()
    print(xllamacpp.get_system_info())
    return xllamacpp.Server(wishes)


def theirs(there, ids, count):
    """Tokens a second of computing: of the prompt with one more, and of those that follow."""

    def ask(tokens):
        wish = {"prompt": ids, "n_predict": tokens, "temperature": 0}
        began = time.process_time()
        there.handle_completions(
            {**wish, "ignore_eos": True, "cache_prompt": False}, lambda answer: None
        )
        return time.process_time() - began

    one = ask(1)
    return len(ids) / one, count / (ask(count + 1) - one)


def ours(model, ids, count):
    """The same of ours; the last layer's norm and head are not computed for the prompt."""
    cache = model.make_cache()
    began = time.process_time()
    model.hidden(mx.array([ids]), cache)
    mx.eval([entry.state for entry in cache])
    read = time.process_time() - began
    token, began = mx.array([ids[-1:]]), time.process_time()
    for _ in range(count):
        token = mx.argmax(model(token, cache)[:, -1:], axis=-1)
        mx.eval(token)
    return len(ids) / read, count / (time.process_time() - began)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=24)
    options = parser.parse_args()
    cpu.write(options.folder, LAYERS)
    file = options.folder / "q4_0.gguf"
    if not file.exists():
        write(file)
    there, model = server(file), checkpoint.load(options.folder)
    found = []
    for i in range(options.rounds + 1):
        ids = np.random.default_rng(i).integers(300, 9000, options.prompt).tolist()
        found.append((theirs(there, ids, options.tokens), ours(model, ids, options.tokens)))
    print(f"{backend.cores()} cores; tokens a second of computing, medians of {options.rounds}")
    for k, name in enumerate(("prefill", "decode")):
        pairs = [(a[k], b[k]) for a, b in found[1:]]
        ratios = sorted(b / a for a, b in pairs)
        one, other = (median(side) for side in zip(*pairs, strict=True))
        print(
            f"{name:<8} llama.cpp {one:.1f}, ours {other:.1f}: "
            f"{median(ratios):.2f} x ({ratios[0]:.2f}-{ratios[-1]:.2f})"
        )


if __name__ == "__main__":
    main()
