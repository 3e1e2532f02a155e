"""Blocks against their naive twins, and what every decoder of them must obey."""

from itertools import pairwise

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from close import assert_close, relative
from hypothesis import given
from hypothesis import strategies as st
from mlx.utils import tree_map

import mlxarch
from mlxarch import checkpoint, registry
from mlxarch.blocks.attention import Attention, nope
from mlxarch.blocks.mlp import SwiGLU
from mlxarch.models import tiny_aya
from mlxarch.naive import attention, mlp, rope
from mlxarch.names import rules

DIM, HEADS, KV_HEADS, HEAD_DIM, WINDOW, BASE = 20, 6, 2, 10, 9, 3e4
LENGTHS = [1, 2, 63, 65]
# A block's `rope`, and what the twin does in its place.
ROPES = {
    "halves": (nn.RoPE(HEAD_DIM, base=BASE), lambda x, t: rope.rotate(x, t, BASE)),
    "interleaved": (
        nn.RoPE(HEAD_DIM, base=BASE, traditional=True),
        lambda x, t: rope.rotate(x, t, BASE, interleaved=True),
    ),
    "nope": (nope, lambda x, t: x),
}


@pytest.fixture(scope="module")
def model(golden):
    return mlxarch.load(golden.folder, dtype=mx.float32)


def randomised(module: nn.Module, seed: int) -> nn.Module:
    """The module with every parameter random, norms too, and outputs of a size like its inputs."""
    key = mx.random.key(seed)

    def draw(w):
        nonlocal key
        key, mine = mx.random.split(key)
        noise = mx.random.normal(w.shape, key=mine)
        return 1 + 0.3 * noise if w.ndim == 1 else 1.5 * noise / w.shape[-1] ** 0.5

    module.update(tree_map(draw, module.parameters()))
    mx.eval(module.parameters())
    return module


def matrices(module: nn.Module) -> dict[str, np.ndarray]:
    """A block's weights as its twin takes them."""
    named = checkpoint.parameters(module).items()
    return {name.removesuffix(".weight"): np.array(w, dtype=np.float64) for name, w in named}


def inputs(length: int) -> mx.array:
    return mx.random.normal((2, length, DIM), key=mx.random.key(length))


@pytest.mark.parametrize("window", [None, WINDOW], ids=["full", "window"])
@pytest.mark.parametrize("rope_kind", ROPES)
@pytest.mark.parametrize("length", LENGTHS)
def test_attention_is_its_twin(length, rope_kind, window):
    rotary, rotate = ROPES[rope_kind]
    block = Attention(DIM, HEADS, KV_HEADS, HEAD_DIM, rope=rotary, window=window)
    randomised(block, seed=length)
    x = inputs(length)
    twin = [
        attention.attention(
            np.array(row, dtype=np.float64),
            matrices(block),
            heads=HEADS,
            kv_heads=KV_HEADS,
            rotate=rotate,
            window=window,
        )
        for row in x
    ]
    assert_close("whole", block(x, block.make_mask(x)), twin, limit=1e-5)

    cache, pieces = block.make_cache(), []
    for start, stop in pairwise(sorted({0, 1, length // 3, length // 2, length - 1, length})):
        piece = x[:, start:stop]
        pieces.append(block(piece, block.make_mask(piece, cache), cache))
    assert_close("in pieces", np.concatenate(pieces, axis=1), twin, limit=1e-5)


@pytest.mark.parametrize("length", LENGTHS)
def test_swiglu_is_its_twin(length):
    block = randomised(SwiGLU(DIM, 33), seed=length)
    x = inputs(length)
    twin = [[mlp.swiglu(token, matrices(block)) for token in np.array(row, float)] for row in x]
    assert_close("swiglu", block(x), twin, limit=1e-5)


def test_heads_that_cannot_be_shared_evenly_are_refused():
    with pytest.raises(ValueError, match="5 query heads cannot share 2"):
        Attention(DIM, 5, 2, HEAD_DIM)


@given(cuts=st.sets(st.integers(1, 36), max_size=8))
def test_any_split_of_the_prompt_gives_the_same_logits(model, golden, cuts):
    ids = mx.array(golden["long.ids"])
    cache = model.make_cache()
    edges = [0, *sorted(cuts), ids.shape[1]]
    pieces = [model(ids[:, start:stop], cache=cache) for start, stop in pairwise(edges)]
    assert_close("in pieces", np.concatenate(pieces, axis=1), model(ids), limit=1e-5)


@given(t=st.integers(0, 36), token=st.integers(0, 95))
def test_a_token_changes_nothing_before_it(model, golden, t, token):
    ids = golden["long.ids"].copy()
    before = model(mx.array(ids))
    same = ids[0, t] == token
    ids[0, t] = token
    after = model(mx.array(ids))
    if t:
        assert_close("before the change", after[:, :t], before[:, :t], limit=1e-6)
    assert same or relative(after[:, t], before[:, t]) > 1e-3


@pytest.fixture(scope="module")
def windows_only():
    """Three layers, each with a window of 5 tokens, so that a token reaches 3 * 4 further."""
    raw = {
        "model_type": "cohere2",
        "vocab_size": 50,
        "hidden_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 30,
        "rope_theta": 1e4,
        "logit_scale": 1.0,
        "sliding_window": 5,
        "layer_types": ["sliding_attention"] * 3,
    }
    return randomised(tiny_aya.build(tiny_aya.Config.from_hub(raw)), seed=0)


@pytest.mark.parametrize("t", [0, 7, 20])
def test_a_token_reaches_as_far_as_the_windows_do_and_no_further(windows_only, t):
    ids = np.random.default_rng(t).integers(0, 50, (1, 40))
    before = windows_only(mx.array(ids))
    ids[0, t] = (ids[0, t] + 1) % 50
    after = windows_only(mx.array(ids))
    last = t + 3 * 4
    assert relative(after[:, last], before[:, last]) > 1e-5
    assert_close("out of reach", after[:, last + 1 :], before[:, last + 1 :], limit=1e-6)


def test_the_order_of_a_batch_does_not_matter(model, golden):
    ids = mx.array(golden["batch.ids"])
    assert_close("swapped", model(ids[::-1])[::-1], model(ids), limit=1e-6)


def test_save_then_load_is_identity(model, golden, tmp_path):
    port = registry.find(golden.config())
    table = port.names.table(port.model.Config.from_hub(golden.config()))
    saved = checkpoint.parameters(model)
    hub = {rules.rename(rules.inverse(table), path): w for path, w in saved.items()}
    mx.save_safetensors(str(tmp_path / "model.safetensors"), hub)
    (tmp_path / "config.json").symlink_to(golden.folder / "config.json")
    loaded = checkpoint.parameters(mlxarch.load(tmp_path))
    assert loaded.keys() == saved.keys()
    assert all(mx.array_equal(loaded[path], saved[path]) for path in saved)
