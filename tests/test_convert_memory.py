"""A conversion needs memory for a tensor, not for a model."""

import json
import subprocess
import sys

import mlx.core as mx
import pytest
import tiny

MEASURED = """
import json, re, resource, sys
from pathlib import Path
from mlxarch.convert import inventory, plan, write
from mlxarch.quantize.recipes import candidate

def peak():
    # On Linux, getrusage also counts what the process was before it became this program.
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", status.read_text())[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

source, out, bits = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
recipe = candidate(str(bits)) if bits else None
planned = plan.make(inventory.look(source), recipe=recipe, shard_bytes=100_000_000)
before = peak()
write.write(planned, out)
largest = max(output.peak_bytes for output in planned.outputs)
print(json.dumps([before, peak(), largest, planned.bytes_in, len(planned.shards)]))
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """600 MB in bfloat16, of which no tensor has more than 34 MB."""
    folder = tmp_path_factory.mktemp("large")
    sizes = {"hidden_size": 2048, "intermediate_size": 8192, "num_attention_heads": 32}
    sizes |= {"head_dim": 64, "vocab_size": 8192, "num_hidden_layers": 4, "num_key_value_heads": 8}
    raw = {**tiny.CONFIGS["llama"], **sizes}
    (folder / "config.json").write_text(json.dumps(raw))
    layer = {
        "self_attn.q_proj": (2048, 2048),
        "self_attn.k_proj": (512, 2048),
        "self_attn.v_proj": (512, 2048),
        "self_attn.o_proj": (2048, 2048),
        "mlp.gate_proj": (8192, 2048),
        "mlp.up_proj": (8192, 2048),
        "mlp.down_proj": (2048, 8192),
        "input_layernorm": (2048,),
        "post_attention_layernorm": (2048,),
    }
    shapes = {"model.embed_tokens": (8192, 2048), "lm_head": (8192, 2048), "model.norm": (2048,)}
    shapes |= {f"model.layers.{i}.{name}": s for i in range(4) for name, s in layer.items()}
    row = mx.random.normal((8192,)).astype(mx.bfloat16)
    weights = {f"{n}.weight": mx.broadcast_to(row[: s[-1]], s) for n, s in shapes.items()}
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("bits", [0, 4])
def test_peak_memory_is_that_of_a_tensor(large, tmp_path, bits):
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, large, tmp_path / "out", str(bits)],
        capture_output=True,
        text=True,
        check=True,
    )
    before, peak, largest, bytes_in, shards = json.loads(done.stdout)
    assert bytes_in > 550e6
    assert shards == (2 if bits else 7)
    assert largest < 50e6
    # Malloc keeps some of what was freed, and pieces are computed in float32.
    assert peak - before < largest + 60e6, f"{(peak - before) / 1e6:.0f} MB for {largest / 1e6:.0f}"
