"""Which tensors are quantized, into what, and how the loss is measured."""

import json
import math
from importlib.resources import files

import mlx.core as mx
import numpy as np
import pytest
import tiny
from close import assert_close

import mlxarch
from mlxarch.convert import inventory, plan
from mlxarch.convert.write import write
from mlxarch.quantize import quality
from mlxarch.quantize.pack import pack
from mlxarch.quantize.scheme import BITS, GROUP_SIZES, Scheme, scheme_for

EVEN = {"hidden_size": 64, "head_dim": 16, "intermediate_size": 128}


@pytest.mark.parametrize(
    ("name", "shape", "quantized"),
    [
        ("model.embed_tokens.weight", (264, 128), True),
        ("lm_head.weight", (264, 128), True),
        ("model.layers.0.self_attn.q_proj.weight", (128, 128), True),
        ("model.layers.0.mlp.gate_proj.weight", (256, 128), True),
        ("model.layers.0.mlp.down_proj.weight", (128, 96), False),
        ("model.layers.0.self_attn.q_proj.bias", (128,), False),
        ("model.norm.weight", (128,), False),
        ("model.layers.0.conv1d.weight", (128, 4, 128), False),
        ("model.layers.0.mlp.gate.weight", (8, 128), False),
        ("model.layers.0.mlp.router.gate.weight", (8, 128), False),
        ("model.layers.0.mlp.router.weight", (8, 128), False),
        ("model.layers.0.mlp.shared_expert_gate.weight", (1, 128), False),
        ("model.layers.0.self_attn.q_proj.scales", (128, 128), False),
    ],
)
def test_norms_biases_and_routers_stay(name, shape, quantized):
    wanted = Scheme(4, 64)
    assert scheme_for(name, shape, wanted) == (wanted if quantized else None)
    assert scheme_for(name, shape, None) is None


@pytest.mark.parametrize("wrong", [{"bits": 7}, {"bits": 1}, {"group_size": 16}])
def test_a_scheme_that_mlx_lacks_is_refused(wrong):
    with pytest.raises(ValueError, match="MLX has"):
        Scheme(**wrong)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16])
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("group_size", GROUP_SIZES)
def test_packing_in_pieces_is_packing_at_once(monkeypatch, dtype, bits, group_size):
    monkeypatch.setattr("mlxarch.quantize.pack._PIECE", 4096)
    weight = mx.random.normal((37, 256), key=mx.random.key(bits)).astype(dtype)
    packed = pack(weight, Scheme(bits, group_size))
    wanted = mx.quantize(weight, group_size, bits)
    got = [mx.concatenate(pieces) for pieces in (packed.weight, packed.scales, packed.biases)]
    assert len(packed.weight) > 1
    for ours, theirs in zip(got, wanted, strict=True):
        assert ours.dtype == theirs.dtype
        assert mx.array_equal(ours, theirs)

    # The error, from the definition of the format: value = scale * code + bias.
    codes = np.array(got[0].view(mx.uint8)).reshape(37, -1)
    bitstream = np.unpackbits(codes, axis=1, bitorder="little").reshape(37, 256, bits)
    values = (bitstream * (1 << np.arange(bits))).sum(-1)
    scale, bias = (np.array(a.astype(mx.float32)).repeat(group_size, 1) for a in got[1:])
    exact = np.array(weight.astype(mx.float32), np.float64)
    error = np.linalg.norm(values * scale + bias - exact) / np.linalg.norm(exact)
    assert packed.relative_error == pytest.approx(error, rel=1e-4)


def test_bfloat16_is_packed_as_float32_is():
    # MLX computes in float32 whatever the type; only the scales are rounded to it.
    weight = mx.random.normal((16, 128), key=mx.random.key(1)).astype(mx.bfloat16)
    packed = pack(weight, Scheme(4, 32))
    wanted = mx.quantize(weight.astype(mx.float32), 32, 4)
    assert mx.array_equal(packed.weight[0], wanted[0])
    assert mx.array_equal(packed.scales[0], wanted[1].astype(mx.bfloat16))
    assert mx.array_equal(packed.biases[0], wanted[2].astype(mx.bfloat16))


def test_fewer_bits_lose_more():
    weight = mx.random.normal((64, 128), key=mx.random.key(0))
    errors = [pack(weight, Scheme(bits, 64)).relative_error for bits in BITS]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.3
    assert errors[-1] < 0.01


def test_zeros_are_kept_exactly():
    assert pack(mx.zeros((4, 64)), Scheme()).relative_error == 0.0


def test_divergence_by_its_definition():
    rng = np.random.default_rng(0)
    before, after = rng.normal(size=(2, 150, 11)).astype(np.float32)
    p, q = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (before, after))
    kl, agreement = quality.divergence(mx.array(before), mx.array(after))
    assert kl == pytest.approx(float((p * np.log(p / q)).sum(-1).mean()), rel=1e-5)
    assert agreement == pytest.approx(float((p.argmax(-1) == q.argmax(-1)).mean()))
    assert quality.divergence(mx.array(before), mx.array(before)) == (0.0, 1.0)


def test_divergence_counts_what_the_original_finds_likely():
    # Two tokens at 1/2 each, become 3/4 and 1/4: KL is ln(2/sqrt(3)), the other way it differs.
    even, uneven = mx.zeros((1, 2)), mx.log(mx.array([[0.75, 0.25]]))
    assert quality.divergence(even, uneven)[0] == pytest.approx(math.log(2 / math.sqrt(3)))
    assert quality.divergence(uneven, even)[0] == pytest.approx(0.1308, abs=1e-4)


def quantized(source, out, scheme):
    write(plan.make(inventory.look(source), scheme=scheme), out)
    return out


@pytest.mark.parametrize("family", ["llama", "cohere2"])
def test_a_float_copy_is_as_good_and_fewer_bits_are_worse(tmp_path, monkeypatch, family):
    monkeypatch.setattr(quality, "_TOKENS", 128)
    source = tiny.save(tmp_path / "source", family, **EVEN)
    same = quality.compare(source, quantized(source, tmp_path / "same", None))
    assert (same.mean_kl, same.top1_agreement) == (0.0, 1.0)
    assert (same.tokens, same.text) == (128, "the text that comes with mlxarch")
    found = [
        quality.compare(source, quantized(source, tmp_path / f"{bits}", Scheme(bits, 32)))
        for bits in (2, 4, 8)
    ]
    losses = [quality.mean_kl for quality in found]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.1 < losses[0]
    agreement = [quality.top1_agreement for quality in found]
    assert agreement == sorted(agreement)
    assert agreement[0] < 0.5 < 0.8 < agreement[-1]


@pytest.mark.parametrize("family", ["llama", "cohere2"])
@pytest.mark.parametrize("scheme", [None, Scheme(4, 32)])
def test_one_layer_at_a_time_gives_the_model_s_own_logits(tmp_path, family, scheme):
    folder = quantized(tiny.save(tmp_path / "source", family), tmp_path / "out", scheme)
    tokens, done = mx.arange(50)[None], []
    logits = quality._logits(folder, tokens, done.append)
    assert_close("layer by layer", logits[None], mlxarch.load(folder)(tokens), limit=1e-5)
    assert done == [4] * 4


@pytest.mark.parametrize("scheme", [None, Scheme(8, 32)])
def test_layers_are_forgotten_as_they_are_done(tmp_path, scheme):
    source = tiny.save(tmp_path / "source", hidden_size=256, num_hidden_layers=40)
    size = (source / "model.safetensors").stat().st_size
    folder = quantized(source, tmp_path / "out", scheme)
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    quality._logits(folder, mx.zeros((1, 8), mx.int32), lambda depth: None)
    assert mx.get_peak_memory() - before < size / 4


def test_without_a_tokenizer_random_tokens_are_read_and_it_is_said(tmp_path):
    source = tiny.save(tmp_path / "source")
    (source / "tokenizer.json").unlink()
    (source / "tokenizer_config.json").unlink()
    out = quantized(source, tmp_path / "out", Scheme(4, 32))
    first, second = quality.compare(source, out), quality.compare(source, out)
    assert first == second
    assert first.tokens == 512
    assert first.text.startswith("noise, since no tokenizer can be loaded")


def test_a_tokenizer_that_is_too_large_for_the_model_is_not_used(tmp_path):
    source = tiny.save(tmp_path / "source", vocab_size=200)
    found = quality.compare(source, quantized(source, tmp_path / "out", None))
    assert found.text == "noise, since the tokenizer has more tokens than the model"
    assert found.mean_kl == 0.0


def test_code_of_a_tokenizer_is_not_run(tmp_path):
    source = tiny.save(tmp_path / "source")
    (source / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass T: pass\n")
    (source / "tokenizer_config.json").write_text(
        json.dumps({"auto_map": {"AutoTokenizer": ["evil.T", "evil.T"]}, "tokenizer_class": "T"})
    )
    quality.compare(source, quantized(source, tmp_path / "out", None))
    assert not (tmp_path / "ran").exists()


def test_the_sample_has_prose_code_a_list_and_other_scripts():
    text = files("mlxarch.quantize").joinpath("sample.txt").read_text(encoding="utf-8")
    assert 400 <= len(text.split()) <= 600
    for part in ("lighthouse", "def visible_from", "1. twelve", "Nebel", "灯台", "الضوء"):
        assert part in text
