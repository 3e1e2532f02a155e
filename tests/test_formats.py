"""Other formats of weights: each decoder against its inverse and what the numbers stand for."""

import json

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packings import FP8, awq, gptq, integers, stream
from releases import PACKINGS, packed

from mlxarch import formats, shards
from mlxarch.errors import FormatError
from mlxarch.names import rules

ENDS = ("weight", "scales", "biases")
QUICKLY = settings(max_examples=12, deadline=None, derandomize=True)


def config(name):
    return {"quantization_config": PACKINGS[name].config}


def floats(decoded, path="a.", columns=None):
    """What the decoded tensors of a module stand for."""
    weight, scales = decoded[f"{path}weight"], decoded.get(f"{path}scales")
    if scales is not None:
        layout = formats.Layout.found(columns, weight.shape[-1], scales)
        assert layout.keys["mode"] == "affine" or f"{path}biases" not in decoded
        weight = layout.dequantize(weight, scales, decoded.get(f"{path}biases"))
    return np.array(weight.astype(mx.float32))


@pytest.mark.parametrize("name", PACKINGS)
@given(data=st.data())
@QUICKLY
def test_what_is_packed_is_read_as_it_was(name, data):
    how = PACKINGS[name]
    experts = data.draw(st.sampled_from([(), (1,), (3,)]), "experts")
    if name == "fp8 tensor":
        experts = ()
    rows = how.rows * data.draw(st.integers(1, 40 // how.rows), "rows")
    columns = how.columns * data.draw(st.integers(1, 40 if how.columns == 1 else 4), "columns")
    rng = np.random.default_rng(data.draw(st.integers(0, 2**16), "seed"))
    values = rng.normal(size=(*experts, rows, columns)).astype(np.float32)
    tensors, wanted = packed(how, "a.weight", values)
    tensors["b.weight"] = mx.zeros((2, 2))

    decoded = formats.decode(config(name), tensors)
    ends = {"scales", "biases"} if how.stays and "mx" not in name else {"scales"}
    ends = {"weight", *(ends if how.stays else ())}
    assert set(decoded) == {"b.weight", *(f"a.{end}" for end in ends)}
    np.testing.assert_allclose(floats(decoded, columns=columns), wanted, rtol=0, atol=1e-6)

    unpacked = rules.apply(formats.rules(config(name), packed=False), tensors)
    assert set(unpacked) == {"a.weight", "b.weight"}
    assert unpacked["a.weight"].dtype == how.floats
    nearest = 2.0 ** {mx.bfloat16: -8, mx.float16: -11, mx.float32: -24}[how.floats]
    np.testing.assert_allclose(floats(unpacked), wanted, rtol=nearest, atol=1e-7)


def test_fp8_has_its_256_values():
    source = {"a.weight": mx.arange(256).astype(mx.uint8)[None], "a.weight_scale": mx.ones(())}
    decoded = formats.decode(config("fp8 tensor"), source)
    np.testing.assert_array_equal(floats(decoded)[0], FP8)
    # By the standard's text: the largest, the smallest, and one in between.
    assert (FP8[0x7E], FP8[0x01], FP8[0xC1]) == (448, 2**-9, -2.25)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_whole_numbers_of_any_bits_stay_packed(bits, symmetric):
    values = np.random.default_rng(2).normal(size=(5, 192)).astype(np.float32)
    tensors, wanted = integers(values, 64, bits, symmetric, mx.float32)
    how = {"num_bits": bits, "group_size": 64, "symmetric": symmetric}
    raw = compressed({"g": {"weights": how}})
    decoded = formats.decode(raw, {f"a.{end}": tensor for end, tensor in tensors.items()})
    words = np.array(tensors["weight_packed"]).view(np.uint32)
    np.testing.assert_array_equal(np.array(decoded["a.weight"]), words)
    assert formats.quantization(raw) == {"bits": bits, "group_size": 64, "mode": "affine"}
    np.testing.assert_allclose(floats(decoded, columns=192), wanted, atol=1e-6)


def compressed(groups, format_="pack-quantized", **more):
    how = {"quant_method": "compressed-tensors", "format": format_, "config_groups": groups}
    return {"quantization_config": how | more}


def test_groups_that_mlx_does_not_have_become_floats_or_smaller_groups():
    for group, columns, wanted in ((16, 64, None), (256, 256, 128), (96, 192, 32), (-1, 40, None)):
        values = np.random.default_rng(group % 7).normal(size=(3, columns)).astype(np.float32)
        tensors, stand_for = integers(values, group)
        raw = compressed({"g": {"weights": {"num_bits": 4, "group_size": group}}})
        decoded = formats.decode(raw, {f"a.{end}": tensor for end, tensor in tensors.items()})
        np.testing.assert_allclose(floats(decoded, columns=columns), stand_for, rtol=2**-9)
        scales = decoded.get("a.scales")
        assert (None if scales is None else columns // scales.shape[-1]) == wanted


def test_each_group_of_modules_has_its_own_scheme():
    """By a module's name before a pattern, by a pattern before the kind."""
    groups = {
        "all": {"targets": ["Linear"], "weights": {"num_bits": 4, "group_size": 32}},
        "some": {"targets": ["re:.*down"], "weights": {"num_bits": 8, "group_size": 64}},
        "one": {"targets": ["x.down"], "weights": {"num_bits": 3, "group_size": 128}},
        "none": {"targets": ["re:.*"], "weights": None},
    }
    source, stand_for = {}, {}
    for path, bits, group in (("x.up", 4, 32), ("y.down", 8, 64), ("x.down", 3, 128)):
        values = np.random.default_rng(bits).normal(size=(4, 128)).astype(np.float32)
        tensors, stand_for[path] = integers(values, group, bits)
        source |= {f"{path}.{end}": tensor for end, tensor in tensors.items()}
    decoded = formats.decode(compressed(groups, ignore=["lm_head"]), source)
    for path, wanted in stand_for.items():
        np.testing.assert_allclose(floats(decoded, f"{path}.", 128), wanted, atol=1e-6)
    del groups["all"]
    with pytest.raises(FormatError, match=r"x\.up is quantized, but no group"):
        formats.decode(compressed(groups), source)


def test_a_step_needs_no_more_than_it_is_made_of():
    names = ["a.weight_packed", "a.weight_scale", "a.weight_shape", "a.input_scale"]
    tensors, _ = integers(np.ones((4, 32)))
    source = {name: tensors.get(name[2:], mx.ones(())) for name in names}
    steps = [step for rule in formats.rules(config("int4")) for step in rule.steps(source)]
    assert {(step.name, step.sources) for step in steps} == {
        ("a.weight", ("a.weight_packed",)),
        ("a.scales", ("a.weight_scale",)),
        ("a.biases", ("a.weight_scale",)),
        (None, ("a.weight_shape",)),
        (None, ("a.input_scale",)),
    }


@pytest.mark.parametrize(
    "name",
    ["input_scale", "output_scale", "k_scale", "kv_scale", "input_global_scale", "k_zero_point"],
)
def test_what_is_said_of_activations_is_dropped(name):
    source = {"a.weight": mx.zeros((2, 2)), f"a.k_proj.{name}": mx.ones(())}
    assert set(formats.decode(config("fp8 block"), source)) == {"a.weight"}
    assert set(formats.decode({}, source)) == set(source)


def test_awq_is_read_as_mlx_lm_reads_it():
    from mlx_lm.utils import _transform_awq_weights

    values = np.random.default_rng(3).normal(size=(24, 256)).astype(np.float32)
    tensors, wanted = awq(values, 128)
    tensors = {f"a.{end}": tensor for end, tensor in tensors.items()}
    how = {"quant_method": "awq", "bits": 4, "group_size": 128}
    theirs, layout = _transform_awq_weights(dict(tensors), how)
    ours = formats.decode({"quantization_config": how}, tensors)
    assert formats.quantization({"quantization_config": how}) == layout | {"mode": "affine"}
    assert set(ours) == set(theirs)
    assert all(mx.array_equal(ours[name], theirs[name]) for name in ours)
    np.testing.assert_allclose(floats(ours, columns=256), wanted, atol=1e-6)


def test_biases_are_rounded_to_the_type_of_the_scales_and_no_more():
    values = np.random.default_rng(4).normal(size=(8, 64)).astype(np.float32)
    tensors, _ = awq(values)
    scales = np.random.default_rng(5).uniform(0.1, 0.3, (2, 8)).astype(np.float16)
    tensors = {f"a.{end}": tensor for end, tensor in tensors.items()}
    tensors["a.scales"] = mx.array(scales)
    decoded = formats.decode(config("awq"), tensors)
    assert mx.array_equal(decoded["a.scales"], tensors["a.scales"].T)
    zeros = np.round(-np.array(decoded["a.biases"], dtype=np.float64) / scales.T)
    assert zeros.min() >= 0
    assert zeros.max() <= 15
    wanted = (-zeros * scales.T.astype(np.float64)).astype(np.float16)
    np.testing.assert_array_equal(np.array(decoded["a.biases"]), wanted)


@pytest.mark.parametrize("version", ["gptq", "gptq_v2", None])
def test_a_zero_of_0_survives_that_zeros_are_stored_less_one(version):
    values = np.random.default_rng(6).uniform(0, 1, (8, 64)).astype(np.float32)
    tensors, wanted = gptq(values, less_one=version != "gptq_v2")
    how = PACKINGS["gptq"].config | {"checkpoint_format": version}
    raw = {"quantization_config": how}
    decoded = formats.decode(raw, {f"a.{end}": tensor for end, tensor in tensors.items()})
    assert not np.array(decoded["a.biases"]).any()
    np.testing.assert_allclose(floats(decoded, columns=64), wanted, atol=1e-6)


@pytest.mark.parametrize("stored", [7, 8, 0])
def test_zeros_of_symmetric_gptq_are_not_believed(stored):
    """Some write 7 of 8 as the first version does, others 8, both under the same name."""
    values = np.random.default_rng(7).normal(size=(8, 64)).astype(np.float32)
    tensors, wanted = gptq(values, symmetric=True)
    tensors["qzeros"] = mx.array(stream(np.full((2, 8), stored), 4))
    raw = {"quantization_config": PACKINGS["gptq"].config | {"sym": True}}
    decoded = formats.decode(raw, {f"a.{end}": tensor for end, tensor in tensors.items()})
    np.testing.assert_allclose(floats(decoded, columns=64), wanted, atol=1e-6)


def test_columns_out_of_order_are_refused_by_the_tensor_s_name():
    tensors, _ = gptq(np.ones((8, 64)))
    tensors = {f"a.{end}": tensor for end, tensor in tensors.items()}
    formats.decode(config("gptq"), tensors | {"a.g_idx": mx.zeros(64, mx.int32)})
    with pytest.raises(FormatError, match=r"a\.g_idx puts columns out of order \(desc_act\)"):
        formats.decode(config("gptq"), tensors | {"a.g_idx": mx.arange(64)[::-1] // 32})
    tensors, _ = integers(np.ones((8, 64)))
    tensors = {f"a.{end}": tensor for end, tensor in tensors.items()}
    with pytest.raises(FormatError, match=r"a\.weight_g_idx puts columns out of order"):
        formats.decode(config("int4"), tensors | {"a.weight_g_idx": mx.zeros(64)})


def test_modelopt_has_nvfp4_beside_fp8_and_may_say_so_in_a_file_of_its_own(tmp_path):
    values = np.random.default_rng(8).normal(size=(4, 32)).astype(np.float32)
    source, stand_for = {}, {}
    for path, name in (("a", "modelopt"), ("b", "fp8 tensor")):
        tensors, stand_for[path] = packed(PACKINGS[name], f"{path}.weight", values)
        source |= tensors
    layers = {"a": {"quant_algo": "NVFP4"}, "b": {"quant_algo": "FP8"}}
    how = {"quant_algo": "MIXED_PRECISION", "quantized_layers": layers}
    (tmp_path / "config.json").write_text("{}")
    beside = {"producer": {"name": "modelopt"}, "quantization": how}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(beside))
    raw = shards.read_config(tmp_path)
    decoded = formats.decode(raw, source)
    assert set(decoded) == {"a.weight", "b.weight"}
    for path, wanted in stand_for.items():
        np.testing.assert_array_equal(floats(decoded, f"{path}."), wanted)
    layers["b"]["quant_algo"] = "W8A8_SQ_PER_CHANNEL"
    with pytest.raises(FormatError, match="modelopt"):
        formats.decode({"quantization_config": beside}, {})


def test_what_is_absorbed_becomes_floats():
    path = "model.layers.0.self_attn.kv_b_proj."
    values = np.random.default_rng(9).normal(size=(8, 64)).astype(np.float32)
    for name in ("int4", "mxfp4", "mxfp8", "awq", "gptq"):
        tensors, wanted = packed(PACKINGS[name], f"{path}weight", values)
        decoded = formats.decode(config(name), tensors)
        assert set(decoded) == {f"{path}weight"}
        np.testing.assert_allclose(floats(decoded, path), wanted, rtol=2**-8)
    own = dict(zip(ENDS, mx.quantize(mx.array(values)), strict=True))
    own = {f"{path}{end}": tensor for end, tensor in own.items()}
    raw = {"quantization": {"bits": 4, "group_size": 64}}
    wanted = mx.dequantize(*own.values())
    assert mx.array_equal(formats.decode(raw, own)[f"{path}weight"], wanted)


@pytest.mark.parametrize("mode", ["affine", "mxfp4", "mxfp8", "nvfp4"])
def test_mlx_s_own_become_floats_where_that_is_wanted(mode):
    layouts = {"affine": (4, 64), "mxfp4": (4, 32), "mxfp8": (8, 32), "nvfp4": (4, 16)}
    weight = mx.random.normal((6, 128), key=mx.random.key(0)).astype(mx.bfloat16)
    source, wanted, quantization = {}, {}, {}
    for path, (bits, size) in (("a", layouts[mode]), ("b", layouts["mxfp8"])):
        how = {"bits": bits, "group_size": size, "mode": mode if path == "a" else "mxfp8"}
        parts = mx.quantize(weight, **how)
        source |= {f"{path}.{end}": part for end, part in zip(ENDS, parts, strict=False)}
        exact = [p.astype(mx.float32) if p.dtype == mx.bfloat16 else p for p in parts]
        wanted[f"{path}.weight"] = mx.dequantize(*exact, **how, dtype=mx.float32)
        quantization |= how if path == "a" else {path: how}
    raw = {"quantization": quantization}
    assert set(formats.decode(raw, source)) == set(source)
    unpacked = rules.apply(formats.rules(raw, packed=False), source)
    assert set(unpacked) == set(wanted)
    for name, exact in wanted.items():
        assert mx.array_equal(unpacked[name], exact.astype(mx.bfloat16))
