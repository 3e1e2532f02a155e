"""Bytes of weights and cache against the released models themselves, built and never evaluated.

Shapes and types are all that is looked at, so that a trillion parameters fit into a test.
"""

import json
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import pytest

from mlxarch import anatomy, checkpoint, plan, registry

CONFIGS = Path(__file__).parent / "configs"
TOKENS = 17 * 256  # more than any window and any choice of tokens


def config(name):
    return json.loads((CONFIGS / f"{name}.json").read_text())


# One release of each architecture; the others differ in size alone.
RELEASES = {
    registry.find(config(file.stem)).module: file.stem for file in sorted(CONFIGS.glob("*.json"))
}


@pytest.fixture(params=RELEASES.values(), ids=RELEASES)
def raw(request):
    return config(request.param)


def build(raw, dtype=mx.bfloat16):
    model = registry.find(raw).model
    model = model.build(model.Config.from_hub(raw))
    model.set_dtype(dtype)
    return model


def cache_after(tokens, model):
    """A cache that has seen a prompt and then one token, which cuts windows to their size."""
    cache = model.make_cache()
    model(mx.zeros((1, tokens - 1), dtype=mx.int32), cache)
    model(mx.zeros((1, 1), dtype=mx.int32), cache)
    return cache


def four_bit_bytes(model):
    """Bytes of a model of which nn.quantize packs what can be packed, routers left alone."""

    def chosen(path, module):
        fits = hasattr(module, "to_quantized") and module.weight.shape[-1] % 64 == 0
        return fits and not path.endswith(".gate")

    nn.quantize(model, group_size=64, bits=4, class_predicate=chosen)
    return sum(weight.nbytes for weight in checkpoint.parameters(model).values())


def test_the_cache_is_as_large_as_the_real_one(raw):
    found = anatomy.examine(raw)
    real = [entry.nbytes for entry in cache_after(TOKENS, build(raw))]
    assert [layer.mixer.cache_bytes(TOKENS) for layer in found.layers] == real
    assert found.cache_bytes(TOKENS) == sum(real)
    assert found.cache_fixed + TOKENS * found.cache_per_token == sum(real)


def test_a_cache_in_float32_has_the_same_states():
    raw = config(RELEASES["qwen35"])
    real = sum(entry.nbytes for entry in cache_after(256, build(raw, mx.float32)))
    assert anatomy.examine(raw).cache_bytes(256, itemsize=4) == real


def test_weights_are_as_large_as_the_real_ones(raw):
    found, model = anatomy.examine(raw).total, build(raw)
    assert found.bf16 == sum(weight.nbytes for weight in checkpoint.parameters(model).values())
    assert found.bits4 == four_bit_bytes(model)


def test_rows_that_are_no_multiple_of_a_group_are_not_packed():
    raw = config(RELEASES["qwen3_next"]) | {"shared_expert_intermediate_size": 96}
    assert anatomy.examine(raw).total.bits4 == four_bit_bytes(build(raw))


def test_layers_that_share_an_indexer_keep_no_keys_for_it():
    raw = config("zai-org__GLM-5") | {"index_topk_pattern": "FSS" * 26}
    own, shared = 2 * (512 + 64 + 128), 2 * (512 + 64)
    assert anatomy.examine(raw).cache_per_token == 26 * own + 52 * shared


def test_a_head_that_is_announced_but_not_ported_does_not_count():
    raw = config(RELEASES["minimax_m25"]) | {"num_nextn_predict_layers": 3}
    assert anatomy.examine(raw).heads == 0


def test_a_mixer_that_is_not_known_is_no_zero():
    class Other(nn.Module):
        mixer = nn.Identity()

    with pytest.raises(TypeError, match="Identity"):
        plan.layer(Other())


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({}, ""),
        ({"a": {"bits": 8}}, "; 1 layer otherwise"),
        ({"a": {}, "b": {}}, "; 2 layers otherwise"),
    ],
)
def test_how_a_checkpoint_is_packed_is_said_in_words(own, words):
    raw = {"quantization": {"bits": 4, "group_size": 64, **own}}
    assert anatomy.quantization(raw) == "4-bit affine, groups of 64" + words
