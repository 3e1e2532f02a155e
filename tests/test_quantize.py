"""Numbers in few bits: what they stand for, what is lost, and that mlx-lm reads them."""

import json

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from close import assert_close, relative
from mlx.utils import tree_flatten
from test_mlx_lm import UNGROUPED, WIDE, save, theirs
from tiny_configs import CONFIGS, LINEAR, MTP, saved
from twins import randomised

import mlxarch
from mlxarch import registry
from mlxarch.convert import inventory, plan, settings, write
from mlxarch.names import rules
from mlxarch.quantize.pack import dequantize, pack
from mlxarch.quantize.recipes import Override, Recipe, candidate
from mlxarch.quantize.scheme import BITS, MODES, Scheme

AFFINE = [f"{bits}g{size}" for bits in BITS for size in MODES["affine"][1]]
FLOATS = ["mxfp4", "mxfp8", "nvfp4"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ((7,), "affine with 7 bits; MLX has it with 2, 3, 4, 5, 6 or 8"),
        ((1,), "affine with 1 bits"),
        ((4, 16), "affine in groups of 16; MLX has it in 32, 64 or 128"),
        ((3, 32, "mxfp4"), "mxfp4 with 3 bits; MLX has it with 4"),
        ((4, 32, "nvfp4"), "nvfp4 in groups of 32; MLX has it in 16"),
        ((8, 64, "mxfp8"), "mxfp8 in groups of 64; MLX has it in 32"),
        ((4, 32, "int4"), "'int4' is no mode; MLX has affine, mxfp4, mxfp8, nvfp4"),
    ],
)
def test_a_scheme_that_mlx_lacks_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Scheme(*wrong)


def test_there_is_what_mlx_has_and_nothing_else():
    weight, here = mx.zeros((4, 128)), set()
    for mode in (*MODES, "mxfp6"):
        for bits in range(2, 10):
            for size in (8, 16, 32, 64, 128):
                try:
                    mx.eval(mx.quantize(weight, size, bits, mode))
                except (ValueError, RuntimeError):
                    continue
                here.add((bits, size, mode))
    ours = {(b, g, mode) for mode, (bits, sizes) in MODES.items() for b in bits for g in sizes}
    assert here == ours


@pytest.mark.parametrize("word", [*AFFINE, *FLOATS])
def test_a_word_stands_for_a_scheme_and_back(word):
    scheme = Scheme.parse(word)
    assert scheme.word == word.removesuffix("g64")
    assert Scheme.parse(scheme.word) == scheme
    # As MLX stores it, with scales and biases in 16 bits.
    parts = mx.quantize(mx.zeros((4, 256), mx.bfloat16), *scheme.entry.values())
    assert scheme.bits_per_weight == 8 * sum(part.nbytes for part in parts) / 1024


@pytest.mark.parametrize("mode", FLOATS)
def test_a_mode_without_more_is_mlx_lm_s(mode):
    packed = nn.Linear(128, 8).to_quantized(mode=mode)
    assert Scheme.of(mode) == Scheme(packed.bits, packed.group_size, mode) == Scheme.parse(mode)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16])
@pytest.mark.parametrize("word", [*AFFINE, *FLOATS])
def test_packing_in_pieces_is_packing_at_once(monkeypatch, dtype, word):
    monkeypatch.setattr("mlxarch.quantize.pack._PIECE", 4096)
    scheme = Scheme.parse(word)
    weight = mx.random.normal((37, 256), key=mx.random.key(scheme.bits)).astype(dtype)
    packed = pack(weight, scheme)
    wanted = mx.quantize(weight, scheme.group_size, scheme.bits, scheme.mode)
    pieces = (packed.weight, packed.scales, packed.biases)
    got = [mx.concatenate(arrays) for arrays in pieces if arrays]
    assert len(packed.weight) > 1
    for ours, same in zip(got, wanted, strict=True):
        assert ours.dtype == same.dtype
        assert mx.array_equal(ours, same)
    values = read(got, scheme)
    exact = np.array(weight.astype(mx.float32), np.float64)
    error = np.linalg.norm(values - exact) / np.linalg.norm(exact)
    assert packed.relative_error == pytest.approx(error, rel=1e-4)
    np.testing.assert_allclose(np.array(dequantize(got, scheme)), values, rtol=1e-5, atol=1e-6)


def read(parts, scheme):
    """The numbers that a packed tensor stands for, from the definition of its format."""
    codes = np.array(parts[0].view(mx.uint8))
    rows, bits = len(codes), scheme.bits
    stream = np.unpackbits(codes, axis=1, bitorder="little").reshape(rows, -1, bits)
    codes = (stream * (1 << np.arange(bits))).sum(-1)
    if scheme.affine:
        scale, bias = (
            np.array(a.astype(mx.float32)).repeat(scheme.group_size, 1) for a in parts[1:]
        )
        return codes * scale + bias
    scale = np.array(parts[1]).astype(int)
    scale = small_float(scale, 4, 3) if scheme.mode == "nvfp4" else 2.0 ** (scale - 127)
    levels = small_float(codes, 4, 3) if bits == 8 else small_float(codes, 2, 1)
    return levels * scale.repeat(scheme.group_size, 1)


def small_float(codes, exponent_bits, fraction_bits):
    """OCP E4M3 and E2M1: sign, exponent, fraction; numbers below the least exponent are even."""
    sign = np.where(codes >> (exponent_bits + fraction_bits), -1.0, 1.0)
    exponent = (codes >> fraction_bits) & ((1 << exponent_bits) - 1)
    fraction = (codes & ((1 << fraction_bits) - 1)) / (1 << fraction_bits)
    bias = (1 << (exponent_bits - 1)) - 1
    normal = (1 + fraction) * 2.0 ** (exponent - bias)
    return sign * np.where(exponent == 0, fraction * 2.0 ** (1 - bias), normal)


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


@pytest.mark.parametrize("word", ["4", *FLOATS])
def test_zeros_are_kept_exactly(word):
    assert pack(mx.zeros((4, 64)), Scheme.parse(word)).relative_error == 0.0


def test_each_mode_loses_what_its_bits_suggest():
    weight = mx.random.normal((64, 256), key=mx.random.key(0))
    lost = {word: pack(weight, Scheme.parse(word)).relative_error for word in (*FLOATS, "4", "8")}
    assert (
        lost["8"] < lost["mxfp8"] < 0.03 < 0.08 < lost["4"] < lost["nvfp4"] < lost["mxfp4"] < 0.13
    )


def sizes(family):
    """Those of a tiny model whose rows can be packed."""
    changes = WIDE | UNGROUPED.get(family, {})
    return {key: size for key, size in changes.items() if key in CONFIGS[family]}


def source_of(family, folder, heads=()):
    """A random checkpoint of a family as mlx-lm names it."""
    raw, weights = saved(family, **sizes(family))
    return save(folder, settings.write(raw, [], None, None), weights | dict(heads))


def written(source, out, recipe):
    write.write(plan.make(inventory.look(source), recipe=recipe), out)
    return json.loads((out / "config.json").read_text())["quantization"]


def assert_mlx_lm_answers_as_we_do(family, out):
    ids = mx.random.randint(0, 61, (1, 24), key=mx.random.key(0))
    # Kimi's in float32 are 1e-5 from float64, ours and mlx-lm's alike and not on the same side.
    limit = {"kimi_k25": 2e-5}.get(family, 1e-4 if family in LINEAR else 1e-5)
    assert_close("mlx-lm", mlxarch.load(out, dtype=mx.float32)(ids), theirs(out)(ids), limit)


@pytest.mark.parametrize("word", ["2g32", "3g32", "4g32", "5g32", "6g32", "8g32", *FLOATS])
@pytest.mark.parametrize("family", ["nanbeige41", "kimi_k25", "trinity"])
def test_mlx_lm_reads_every_format(family, word, tmp_path):
    source = source_of(family, tmp_path / "source")
    entries = written(source, tmp_path / "out", candidate(f"uniform:{word}"))
    assert {key: entries[key] for key in ("bits", "group_size", "mode")} == candidate(
        word
    ).base.entry
    assert_mlx_lm_answers_as_we_do(family, tmp_path / "out")
    tensors = mx.load(str(tmp_path / "out" / "model.safetensors"))
    assert tensors["model.embed_tokens.scales"].dtype == (
        mx.uint8 if word in FLOATS else mx.float32
    )
    assert ("model.embed_tokens.biases" in tensors) == (word not in FLOATS)


@pytest.mark.parametrize(
    "family", [name for name in CONFIGS if name not in ("glm5 shared", "ling25")]
)
@pytest.mark.parametrize("text", ["mixed:4g32", "default:nvfp4", "uniform:3g32"])
def test_mlx_lm_reads_every_recipe_of_every_family(family, text, tmp_path):
    source = source_of(family, tmp_path / "source")
    entries = written(source, tmp_path / "out", candidate(text))
    own = {name: entry for name, entry in entries.items() if isinstance(entry, dict)}
    common = candidate(text).base.entry
    assert all(entry.keys() == common.keys() and entry != common for entry in own.values())
    assert_mlx_lm_answers_as_we_do(family, tmp_path / "out")
    built = dict(theirs(tmp_path / "out").named_modules())
    for name, entry in own.items():
        assert {key: getattr(built[name], key) for key in entry} == entry, name


def test_absorbed_matrices_and_overrides_have_their_own_entries(tmp_path):
    source = source_of("kimi_k25", tmp_path / "source")
    overrides = (Override.parse("embed_tokens=mxfp8"), Override.parse("o_proj=keep"))
    entries = written(source, tmp_path / "out", Recipe("default", Scheme(4, 32), overrides))
    eight = {"group_size": 32, "bits": 8, "mode": "affine"}
    assert entries["model.layers.1.self_attn.embed_q"] == eight
    assert entries["model.layers.1.self_attn.unembed_out"] == eight
    assert entries["model.embed_tokens"] == {"group_size": 32, "bits": 8, "mode": "mxfp8"}
    # mlx-lm takes what has no scales for what it is.
    assert not any("o_proj" in name for name in entries)
    assert_mlx_lm_answers_as_we_do("kimi_k25", tmp_path / "out")


def test_heads_for_further_tokens_get_eight_bits_and_their_experts_four(tmp_path):
    raw = CONFIGS["qwen3_next"] | sizes("qwen3_next")
    port = registry.find(raw)
    config = port.model.Config.from_hub(raw)
    (head,) = port.model.build_mtp(config, [f"mtp.0.{MTP['qwen3_next']}"])
    table = rules.inverse(port.names.table(config))
    ours = {f"mtp.0.{path}": w for path, w in tree_flatten(randomised(head, 0).parameters())}
    source = source_of("qwen3_next", tmp_path / "source", rules.translate(table, ours))
    entries = written(source, tmp_path / "out", candidate("uniform:4g32"))
    assert "mtp.0.fc" not in entries
    written(source, tmp_path / "default", candidate("4g32"))
    (found,) = mlxarch.load(tmp_path / "default", dtype=mx.float32).mtp
    hidden, embedded = mx.random.normal((2, 1, 9, config.dim), key=mx.random.key(0))
    assert found.proj.bits == found.block.mixer.q_proj.bits == 8
    assert found.block.mlp.experts.gate_proj.bits == 4
    assert not hasattr(found.block.mlp.router.gate, "bits")
    assert 0 < relative(found(hidden, embedded), head(hidden, embedded)) < 0.2
    assert_mlx_lm_answers_as_we_do("qwen3_next", tmp_path / "default")
