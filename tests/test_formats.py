"""Other formats of weights: each decoder against its inverse and a float reference."""

import json
import re

import mlx.core as mx
import numpy as np
import pytest
from close import assert_close, relative
from goldens import Golden
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_configs import model, saved

import mlxarch
from mlxarch import checkpoint, formats
from mlxarch.errors import FormatError

INT4 = {
    "quantization_config": {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {
            "group_0": {"weights": {"num_bits": 4, "group_size": 32, "symmetric": True}}
        },
    }
}
IDS = mx.random.randint(0, 61, (1, 30), key=mx.random.key(0))


def pack_int4(numbers):
    """Whole numbers -8..7 (M, N) as compressed-tensors packs them: eight to an int32, low first."""
    lifted = (numbers + 8).astype(np.uint32).reshape(numbers.shape[0], -1, 8)
    return (lifted << (4 * np.arange(8, dtype=np.uint32))).sum(axis=-1, dtype=np.uint32)


@given(rows=st.integers(1, 9), groups=st.integers(1, 4), seed=st.integers(0, 2**16))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_packed_integers_are_read_without_a_detour(rows, groups, seed):
    rng = np.random.default_rng(seed)
    numbers = rng.integers(-8, 8, (rows, 32 * groups))
    scales = rng.uniform(0.01, 0.2, (rows, groups)).astype(np.float32)
    source = {
        "a.weight_packed": mx.array(pack_int4(numbers).view(np.int32)),
        "a.weight_scale": mx.array(scales),
        "a.weight_shape": mx.array(np.array(numbers.shape)),
        "b.weight": mx.zeros((2, 2)),
    }
    decoded = formats.decode(INT4, source)
    assert set(decoded) == {"a.weight", "a.scales", "a.biases", "b.weight"}
    assert decoded["a.weight"].dtype == mx.uint32
    how = formats.quantization(INT4)
    assert how is not None
    read = mx.dequantize(decoded["a.weight"], decoded["a.scales"], decoded["a.biases"], **how)
    wanted = numbers * np.repeat(scales, 32, axis=1)
    assert np.allclose(np.array(read), wanted, atol=1e-6)


def to_fp8(values, block):
    """Floats (M, N) as FP8 with a float32 scale a block, and what they then stand for."""
    rows, columns = values.shape
    scales = np.zeros((-(-rows // block[0]), -(-columns // block[1])), np.float32)
    packed = np.zeros(values.shape, np.uint8)
    stand_for = np.zeros(values.shape, np.float32)
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            part = np.s_[i * block[0] : (i + 1) * block[0], j * block[1] : (j + 1) * block[1]]
            scales[i, j] = np.abs(values[part]).max() / 448
            eight = mx.to_fp8(mx.array(values[part] / scales[i, j]))
            packed[part] = np.array(eight)
            stand_for[part] = np.array(mx.from_fp8(eight, dtype=mx.float32)) * scales[i, j]
    return packed, scales, stand_for


@pytest.mark.parametrize("block", [(128, 128), (32, 64), (5, 7)])
@pytest.mark.parametrize("shape", [(128, 256), (70, 130), (3, 9)])
def test_fp8_in_blocks_of_any_size(block, shape):
    values = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    packed, scales, stand_for = to_fp8(values, block)
    raw = {"quantization_config": {"quant_method": "fp8", "weight_block_size": list(block)}}
    source = {"a.weight": mx.array(packed), "a.weight_scale_inv": mx.array(scales)}
    decoded = formats.decode(raw, source)
    assert set(decoded) == {"a.weight"}
    assert decoded["a.weight"].dtype == mx.bfloat16
    read = np.array(decoded["a.weight"].astype(mx.float32))
    assert np.abs(read - stand_for).max() <= np.abs(stand_for).max() * 2**-8
    assert np.linalg.norm(read - values) < 0.04 * np.linalg.norm(values)


def test_scales_that_do_not_cover_the_weight_are_refused():
    raw = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [4, 4]}}
    source = {"a.weight": mx.zeros((9, 8), mx.uint8), "a.weight_scale_inv": mx.ones((2, 2))}
    with pytest.raises(FormatError, match="do not make"):
        formats.decode(raw, source)


@pytest.mark.parametrize(
    "config",
    [
        {"quant_method": "gptq", "bits": 4},
        {"quant_method": "awq", "bits": 4},
        {"quant_method": "fp8"},
        {"quant_method": "bitsandbytes"},
        {"quant_method": "compressed-tensors", "format": "float-quantized"},
        {
            **INT4["quantization_config"],
            "config_groups": {
                "group_0": {"weights": {"num_bits": 4, "group_size": 32, "symmetric": False}}
            },
        },
    ],
    ids=lambda config: json.dumps(config)[:40],
)
def test_what_is_not_read_is_refused_by_its_name(config):
    with pytest.raises(FormatError, match=config["quant_method"]):
        formats.decode({"quantization_config": config}, {})
    with pytest.raises(FormatError, match=config["quant_method"]):
        formats.decode({"text_config": {"quantization_config": config}}, {})


def logits(folder, raw, weights):
    """What a checkpoint of these answers."""
    folder.mkdir()
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    (folder / "config.json").write_text(json.dumps(raw))
    return mlxarch.load(folder, dtype=mx.float32)(IDS)


@pytest.mark.parametrize("name", ["minimax_m25", "glm5"])
def test_a_checkpoint_in_fp8_answers_as_what_it_stands_for(name, tmp_path):
    golden, block = Golden(name), [16, 24]
    packed, plain = checkpoint.read(golden.folder), checkpoint.read(golden.folder)
    # As published: in bfloat16 stay embeddings, norms, routers, and what indexers weigh heads by.
    kept = re.compile(r"norm|embed|lm_head|\.gate\.|e_score|weights_proj|eh_proj")
    names = [name for name in plain if not kept.search(name)]
    assert len(names) > 50
    for name in names:
        values = np.array(plain[name].astype(mx.float32))
        eight, scales, stand_for = to_fp8(values, block)
        packed |= {name: mx.array(eight), f"{name}_scale_inv": mx.array(scales)}
        plain[name] = mx.array(stand_for).astype(mx.bfloat16)
    how = {"quantization_config": {"quant_method": "fp8", "weight_block_size": block}}
    found = logits(tmp_path / "packed", golden.config() | how, packed)
    wanted = logits(tmp_path / "plain", golden.config(), plain)
    assert_close("fp8", found, wanted, 1e-6)
    before = logits(tmp_path / "before", golden.config(), checkpoint.read(golden.folder))
    assert relative(found, before) > 1e-3, "nothing was packed"


def test_experts_in_int4_answer_as_what_they_stand_for(tmp_path):
    """Kimi K2.5 as published: only its experts, in a text_config, beside a tower."""
    sizes = {"hidden_size": 64, "moe_intermediate_size": 32}
    (raw, weights), packed, plain = saved("kimi_k25", **sizes), {}, {}
    for name, weight in weights.items():
        name = f"language_model.{name}"
        if ".switch_mlp." not in name:
            packed[name] = plain[name] = weight
            continue
        for e, values in enumerate(np.array(weight)):
            path = name.replace("switch_mlp", f"experts.{e}").removesuffix(".weight")
            groups = values.reshape(len(values), -1, 32)
            scales = np.abs(groups).max(axis=-1) / 7
            numbers = np.round(groups / scales[..., None]).astype(int)
            plain[f"{path}.weight"] = mx.array((numbers * scales[..., None]).reshape(values.shape))
            packed |= {
                f"{path}.weight_packed": mx.array(
                    pack_int4(numbers.reshape(values.shape)).view(np.int32)
                ),
                f"{path}.weight_scale": mx.array(scales),
                f"{path}.weight_shape": mx.array(np.array(values.shape, dtype=np.int32)),
            }
    assert sum(name.endswith("_packed") for name in packed) == 2 * 8 * 3
    whole = {"model_type": "kimi_k25", "text_config": raw}
    found = logits(tmp_path / "packed", {**whole, "text_config": raw | INT4}, packed)
    wanted = logits(tmp_path / "plain", whole, plain)
    assert_close("int4", found, wanted, 1e-5)
    assert relative(found, model("kimi_k25", **sizes)(IDS)) > 1e-3, "nothing was packed"
