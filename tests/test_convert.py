"""Conversion keeps every logit, for us and for mlx-lm, and reads back what either has written."""

import json
from pathlib import Path

import mlx.core as mx
import pytest
import tiny
from close import assert_close

import mlxarch
from mlxarch.convert import inventory, plan
from mlxarch.convert.write import write
from mlxarch.quantize.recipes import candidate

FAMILIES = ["llama", "cohere2"]
IDS = mx.array([[(7 * i * i + 3) % 256 for i in range(40)]])  # past tiny's window
# Rows that groups of 32 divide, so that everything can be quantized.
EVEN = {"hidden_size": 64, "head_dim": 16, "intermediate_size": 128, "rms_norm_eps": 1e-5}
# What says where a folder comes from.
OWN = ("README.md", "mlxarch.json")


def convert(source: Path, out: Path, **wishes) -> Path:
    write(plan.make(inventory.look(source), **wishes), out)
    return out


def respell(folder: Path) -> Path:
    """config.json as transformers 5 writes it: no rope_theta, no period, but each layer's kind."""
    file = folder / "config.json"
    raw = json.loads(file.read_text())
    raw["rope_parameters"] = {"rope_theta": raw.pop("rope_theta"), "rope_type": "default"}
    if raw["model_type"] == "cohere2":
        depth = raw["num_hidden_layers"]
        raw["layer_types"] = ["full_attention", "sliding_attention"] * (depth // 2)
        raw["layer_types"].reverse()
    file.write_text(json.dumps(raw))
    return folder


def cast(folder: Path, dtype: mx.Dtype) -> Path:
    file = str(folder / "model.safetensors")
    mx.save_safetensors(file, {name: w.astype(dtype) for name, w in mx.load(file).items()})
    return folder


def ours(folder: Path) -> mx.array:
    return mlxarch.load(folder, dtype=mx.float32)(IDS)


def theirs(folder: Path) -> mx.array:
    from mlx_lm.utils import load_model

    model, _ = load_model(folder)
    model.set_dtype(mx.float32)
    return model(IDS)


def tensors(folder: Path) -> dict[str, mx.array]:
    return {
        k: w for file in sorted(folder.glob("*.safetensors")) for k, w in mx.load(str(file)).items()
    }


def assert_same_tensors(got: dict[str, mx.array], wanted: dict[str, mx.array]) -> None:
    assert got.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert got[name].dtype == tensor.dtype, name
        assert mx.array_equal(got[name], tensor), name


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16])
@pytest.mark.parametrize("spelling", ["transformers 4", "transformers 5"])
def test_the_logits_are_the_source_s_for_us_and_for_mlx_lm(tmp_path, family, dtype, spelling):
    source = cast(tiny.save(tmp_path / "source", family), dtype)
    if spelling == "transformers 5":
        respell(source)
    out = convert(source, tmp_path / "out")
    assert mx.array_equal(ours(out), ours(source))
    assert_close("mlx-lm", theirs(out), ours(source), limit=1e-5)
    assert_same_tensors(tensors(out), tensors(source))


def test_mlx_lm_would_misread_the_source_itself(tmp_path):
    source = respell(tiny.save(tmp_path / "source", rope_theta=7e7, rms_norm_eps=1e-6))
    with pytest.raises(AssertionError, match="off by"):
        assert_close("mlx-lm", theirs(source), ours(source), limit=1e-3)


@pytest.mark.parametrize(("family", "tied"), [("llama", True), ("llama", False), ("cohere2", True)])
def test_what_transformers_takes_for_granted_is_spelled_out(tmp_path, family, tied):
    # mlx-lm takes a llama for tied and a head for 128 wide; transformers does neither.
    source = tiny.save(tmp_path / "source", family, tie_word_embeddings=tied)
    raw = json.loads((source / "config.json").read_text())
    if not tied:
        del raw["tie_word_embeddings"]
    raw |= {"head_dim": None, "_name_or_path": "somebody's folder"}
    (source / "config.json").write_text(json.dumps(raw))
    out = convert(source, tmp_path / "out")
    assert_close("mlx-lm", theirs(out), ours(source), limit=1e-5)
    assert "_name_or_path" not in json.loads((out / "config.json").read_text())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_cast_is_a_cast_and_is_said(tmp_path, family, dtype):
    source = tiny.save(tmp_path / "source", family)
    out = convert(source, tmp_path / "out", dtype=dtype)
    wanted = {name: w.astype(getattr(mx, dtype)) for name, w in tensors(source).items()}
    assert_same_tensors(tensors(out), wanted)
    raw = json.loads((out / "config.json").read_text())
    assert (raw["dtype"], raw["torch_dtype"]) == (dtype, dtype)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16])
@pytest.mark.parametrize("bits", [4, 8])
def test_four_bits_are_mlx_lm_s_four_bits(tmp_path, family, dtype, bits):
    from mlx_lm import convert as mlx_lm_convert

    source = cast(tiny.save(tmp_path / "source", family, **EVEN), dtype)
    name = str(dtype).removeprefix("mlx.core.")
    raw = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**raw, "torch_dtype": name}))
    wanted = tmp_path / "theirs"
    mlx_lm_convert(str(source), str(wanted), quantize=True, q_bits=bits, q_group_size=32)

    out = convert(source, tmp_path / "out", recipe=candidate(f"uniform:{bits}g32"))
    assert_same_tensors(tensors(out), tensors(wanted))
    got, config = (json.loads((f / "config.json").read_text()) for f in (out, wanted))
    for key in ("quantization", "quantization_config"):
        assert got[key] == config[key] == {"group_size": 32, "bits": bits, "mode": "affine"}
    index, theirs_ = (
        json.loads((f / "model.safetensors.index.json").read_text()) for f in (out, wanted)
    )
    assert index == theirs_


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("quantized", [False, True])
def test_what_mlx_lm_wrote_is_read_and_passed_through(tmp_path, family, quantized):
    from mlx_lm import convert as mlx_lm_convert

    source = tiny.save(tmp_path / "source", family, **EVEN)
    first = tmp_path / "mlx-lm"
    mlx_lm_convert(str(source), str(first), quantize=quantized, q_group_size=32, q_bits=4)
    assert_close("ours", ours(first), theirs(first), limit=1e-5)

    again = convert(first, tmp_path / "again")
    assert_same_tensors(tensors(again), tensors(first))
    assert_close("mlx-lm", theirs(again), theirs(first), limit=1e-6)
    half = convert(first, tmp_path / "half", dtype="float16")
    kinds = {w.dtype for w in tensors(half).values()}
    assert kinds == ({mx.float16, mx.uint32} if quantized else {mx.float16})


@pytest.mark.parametrize("family", FAMILIES)
def test_quantized_on_the_way_is_converted_then_quantized(tmp_path, family):
    source = respell(tiny.save(tmp_path / "source", family, **EVEN))
    wishes = {"recipe": candidate("4g32"), "shard_bytes": 30_000}
    at_once = convert(source, tmp_path / "at_once", **wishes)
    first = convert(source, tmp_path / "first", shard_bytes=70_000)
    then = convert(first, tmp_path / "then", **wishes)
    files = sorted(file.name for file in at_once.iterdir() if file.name not in OWN)
    assert len([name for name in files if name.startswith("model-")]) > 2
    for name in files:
        assert (at_once / name).read_bytes() == (then / name).read_bytes(), name
    assert_close("mlx-lm", theirs(at_once), ours(at_once), limit=1e-5)


def test_rows_that_no_group_divides_stay_and_are_listed(tmp_path):
    source = tiny.save(tmp_path / "source")  # rows of 32 and, in down_proj, 48
    planned = plan.make(inventory.look(source), recipe=candidate("4g32"))
    left = [f"model.layers.{i}.mlp.down_proj.weight" for i in range(4)]
    assert [output.name for output in planned.unquantized] == left
    write(planned, tmp_path / "out")
    got, before = tensors(tmp_path / "out"), tensors(source)
    assert all(mx.array_equal(got[name], before[name]) for name in left)
    assert_close("mlx-lm", theirs(tmp_path / "out"), ours(tmp_path / "out"), limit=1e-5)


def test_norms_are_never_quantized(tmp_path):
    source = tiny.save(tmp_path / "source", **EVEN)
    out = convert(source, tmp_path / "out", recipe=candidate("2g32"))
    got, before = tensors(out), tensors(source)
    norms = [name for name, w in before.items() if w.ndim == 1]
    assert len(norms) == 9
    assert all(mx.array_equal(got[name], before[name]) for name in norms)
