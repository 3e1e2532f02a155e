"""Every family through our own converter: read by us, and by the real mlx-lm."""

import json

import mlx.core as mx
import numpy as np
import pytest
from close import assert_close, relative
from goldens import SPELLINGS

import mlxarch
from mlxarch.convert import inventory, plan, write
from mlxarch.quantize.recipes import candidate

# mlx-lm cannot run these, or not as their publisher does.
NOT_MLX_LM = {
    "glm5_shared": "has no shared indexers",
    "ling25": "lets its memory fade at another pace",
}


def convert(golden, spelling, tmp_path, recipe=None):
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    golden.spelled(spelling, source)
    write.write(plan.make(inventory.look(source), dtype="float32", recipe=recipe), out)
    return source, out


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_what_is_written_answers_as_its_source(golden, spelling, tmp_path):
    source, out = convert(golden, spelling, tmp_path)
    ours, theirs = mlxarch.load(out), mlxarch.load(source)
    ids = mx.array(golden["long.ids"])
    assert_close("converted", ours(ids), theirs(ids), limit=1e-6)
    assert (ours.mtp is None) == (theirs.mtp is None)
    assert (out / "mtp.safetensors").exists() == (theirs.mtp is not None)
    names = {name.split(".")[0] for name in mx.load(str(out / "model.safetensors"))}
    assert not names & {"mtp", "vision"}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("bits", [None, 4])
def test_mlx_lm_reads_what_we_write(golden, spelling, bits, tmp_path):
    from mlx_lm.utils import load_model

    if golden.name in NOT_MLX_LM:
        return
    _, out = convert(
        golden, spelling, tmp_path, candidate(f"{bits}g32") if bits and wide(golden) else None
    )
    theirs, _ = load_model(out)
    theirs.set_dtype(mx.float32)
    ids = mx.array(golden["long.ids"])
    # Recurrent layers norm what is nearly nothing, which magnifies the order of a sum.
    # Kimi's in float32 are 1e-5 from torch's, ours and mlx-lm's alike and not on the same side.
    limit = 1e-4 if "qwen3" in golden.name else 2e-5 if "kimi" in golden.name else 1e-5
    assert_close("mlx-lm", theirs(ids), mlxarch.load(out)(ids), limit=limit)


def wide(golden):
    """Whether any of its rows can be quantized in groups of 32."""
    config = golden.config()
    return (config.get("text_config") or config)["hidden_size"] % 32 == 0


def test_heads_for_further_tokens_survive(golden, tmp_path):
    if "mtp.0.hidden" not in golden.arrays:
        return
    source, out = convert(golden, "tf4", tmp_path)
    ids = mx.array(golden["long.ids"])
    length = golden["mtp.0.hidden"].shape[1]
    states = []
    for folder in (source, out):
        model = mlxarch.load(folder)
        hidden = model.norm(model.hidden(ids[:, :length]))
        states.append(model.mtp[0](hidden, model.embed(ids[:, 1 : length + 1])))
    assert relative(*map(np.array, states)) < 1e-6


def test_config_json_says_what_mlx_lm_would_guess(golden, tmp_path):
    _, out = convert(golden, "tf5", tmp_path)
    written = json.loads((out / "config.json").read_text())
    config = written.get("text_config") or written
    assert "rope_theta" in config or "rope_parameters" in config
    assert "quantization" not in written
