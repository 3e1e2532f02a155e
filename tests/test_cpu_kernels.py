"""What the CPU's own kernels compute: against float64, MLX's layers, and in every family."""

from functools import partial

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from close import assert_close
from hypothesis import example, given
from hypothesis import strategies as st
from quickened import FORMATS, LIMIT, any_size, packed, pairs, quick, random
from releases import WIDE
from tiny_configs import CONFIGS, model

from mlxarch import backend, checkpoint, compat
from mlxarch.blocks.attention import Attention
from mlxarch.blocks.mlp import SwiGLU
from mlxarch.blocks.rope import Rope
from mlxarch.kernels import matrices, tiles

pytestmark = pytest.mark.usefixtures(any_size.__name__)
OTHERS = [("mxfp8", 8, 32), ("nvfp4", 4, 16)]
MANY = matrices.FEW + 3


@given(
    st.sampled_from(FORMATS),
    st.integers(1, 5),
    st.integers(1, 90),
    st.integers(1, 20),
    st.integers(0, 9),
)
@example(FORMATS[0], 3, 2000, 1, 0)  # large enough for several threads
@example(FORMATS[-1], 3, 50, MANY, 0)
@example(("affine", 2, 64), 3, 50, MANY, 0)
@example(("affine", 3, 64), 3, 50, MANY, 0)
@example(("affine", 4, 64), 3, 50, MANY, 0)
@example(("affine", 5, 64), 3, 50, MANY, 0)
@example(("affine", 6, 64), 3, 50, MANY, 0)
@example(("affine", 8, 64), 3, 50, MANY, 0)
def test_a_packed_layer_is_float64_s_but_for_rounding(form, groups, outputs, rows, seed):
    layer, dense = packed(groups * 128, outputs, form, bias=True)
    layer.bias = random(outputs, seed=seed)
    x = random(2, rows, groups * 128, seed=seed)
    wanted = np.array(x).astype(np.float64) @ dense.T + np.array(layer.bias)
    assert_close("packed", layer(x), wanted, LIMIT)


@pytest.mark.parametrize("rows", [1, MANY])
@pytest.mark.parametrize("form", FORMATS + OTHERS)
def test_a_packed_embedding_is_a_head(form, rows):
    head, dense = packed(256, 61, form, bias=False)
    embedding = nn.QuantizedEmbedding(61, 256, group_size=form[2], bits=form[1], mode=form[0])
    embedding.update(head.parameters())
    x = random(rows, 256)
    assert_close("head", quick(embedding).as_linear(x), np.array(x) @ dense.T, LIMIT)
    rows = embedding(mx.array([3, 60])).astype(mx.float32)
    assert_close("rows", rows, dense[[3, 60]], LIMIT)


@pytest.mark.parametrize("form", FORMATS)
def test_a_row_does_not_see_how_many_there_are(form):
    """So that tokens verified at once are those found one by one."""
    layer, _ = packed(384, 700, form, bias=False)
    x = random(7, 384)
    alone = mx.concatenate([layer(x[i : i + 1]) for i in range(7)])
    assert mx.array_equal(layer(x), alone)


def test_rows_that_do_not_lie_together_are_taken_as_they_are_meant():
    layer, dense = packed(128, 40, FORMATS[0], bias=False)
    x = random(128, 3, 2)[:, ::2].T  # neither contiguous nor in order
    assert_close("strided", layer(x), np.array(x) @ dense.T, LIMIT)


@pytest.mark.parametrize("tokens", [1, 3, 40])
@pytest.mark.parametrize("form", FORMATS + OTHERS)
def test_only_the_chosen_experts_are_multiplied(form, tokens):
    kind = partial(compat.QuantizedSwitchLinear, bias=False)
    layer, dense = packed(128, 24, form, experts=7, kind=kind)
    chosen = np.random.default_rng(0).integers(0, 5, (1, tokens, 4))
    for shape in [(1, tokens, 1, 1, 128), (1, tokens, 4, 1, 128)]:
        x = random(*shape)
        each = np.broadcast_to(np.array(x), (1, tokens, 4, 1, 128))
        wanted = np.einsum("btkoi,btkxi->btkxo", dense[chosen], each)
        assert_close("experts", layer(x, mx.array(chosen)), wanted, LIMIT)


@pytest.mark.parametrize("form", [*FORMATS, OTHERS[0]])
@pytest.mark.parametrize("length", [1, 3, MANY])
@pytest.mark.parametrize("heads", [1, 6])
def test_each_head_has_its_matrix_forth_and_back(form, length, heads):
    layer, dense = packed(128, 24, form, experts=6, kind=compat.QuantizedMultiLinear)
    x = random(2, heads, length, 128)
    wanted = np.einsum("hoi,bhli->bhlo", dense, np.broadcast_to(x, (2, 6, length, 128)))
    assert_close("forth", layer(x), wanted, LIMIT)
    back = random(2, heads, length, 24)
    wanted = np.einsum("hoi,bhlo->bhli", dense, np.broadcast_to(back, (2, 6, length, 24)))
    assert_close("back", layer(back, transpose=False), wanted, LIMIT)


@pytest.mark.parametrize("rows", [1, 7])
def test_dense_layers_are_blas_s(rows):
    x = random(rows, 48)
    theirs, ours = pairs(lambda: nn.Linear(48, 30))
    assert_close("linear", ours(x), theirs(x), LIMIT)
    theirs, ours = pairs(lambda: nn.Embedding(30, 48))
    assert_close("head", ours.as_linear(x), theirs.as_linear(x), LIMIT)


def test_norm_and_gate_are_mlx_s():
    x = random(2, 3, 40) * mx.array([1e-4, 1.0, 300.0])[:, None]
    theirs, ours = pairs(lambda: nn.RMSNorm(40, eps=1e-6))
    assert_close("norm", ours(x), theirs(x), LIMIT)
    theirs, ours = pairs(lambda: SwiGLU(40, 24))
    assert_close("swiglu", ours(x), theirs(x), LIMIT)
    clipped = lambda gate, up: mx.minimum(gate, 0.5) * up  # noqa: E731
    theirs, ours = pairs(lambda: SwiGLU(40, 24, clipped))
    assert_close("another activation", ours(x), theirs(x), LIMIT)


YARN = {"type": "yarn", "factor": 8.0, "original_max_position_embeddings": 16}


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("scaling", [None, YARN])
@pytest.mark.parametrize("offset", [0, 5, 40_000])
def test_rope_is_mlx_s(interleaved, scaling, offset):
    theirs, ours = pairs(lambda: Rope(12, 1e4, interleaved=interleaved, scaling=scaling))
    x = random(2, 5, 3, 16).swapaxes(1, 2)
    assert_close("rope", ours(x, offset), theirs(x, offset), LIMIT)
    assert_close("rope", ours(x, mx.array(offset)), theirs(x, offset), LIMIT)


@pytest.mark.parametrize("numbers", [mx.array, np.asarray])
@pytest.mark.parametrize("gates", [0, 1, 16])
@pytest.mark.parametrize("window", [None, 4, 14])
def test_attention_is_mlx_s(gates, window, numbers, monkeypatch):
    monkeypatch.setattr(tiles, "ROWS", 5)
    monkeypatch.setattr(tiles, "_TILE", 1)  # a panel

    def make():
        norm = lambda heads, head_dim: nn.RMSNorm(head_dim)  # noqa: E731
        rope = Rope(8, 1e4)
        return Attention(24, 6, 2, 16, rope=rope, window=window, qk_norm=norm, gates=gates)

    theirs, ours = pairs(make)
    caches = theirs.make_cache(), ours.make_cache()
    for length in (7, 1, 12, 1, 3, 30, 150):
        x = random(1, length, 24, seed=length)
        got, wanted = (
            m(x, m.make_mask(x, c), c)
            for m, x, c in zip((ours, theirs), (numbers(x), x), caches, strict=True)
        )
        assert_close(f"{length} tokens", got, wanted, LIMIT)
    batch = random(3, 5, 24)
    assert_close("a batch", ours(batch, "causal"), theirs(batch, "causal"), LIMIT)
    added = mx.where(mx.eye(5, dtype=mx.bool_), 0.0, -1.0)
    assert_close("a mask to add", ours(batch, added), theirs(batch, added), LIMIT)


@pytest.mark.parametrize("mode", ["affine", "mxfp4", None])
@pytest.mark.parametrize("family", CONFIGS)
def test_every_family_answers_as_without(family, mode):
    changes = {
        key: size for key, size in (WIDE | {"head_dim": 32}).items() if key in CONFIGS[family]
    }
    theirs, ours = (model(family, **changes) for _ in range(2))
    for each in (theirs, ours):
        if mode:
            fits = lambda _, m: hasattr(m, "to_quantized") and m.weight.shape[-1] % 32 == 0  # noqa: E731
            nn.quantize(each, 32, 4, mode=mode, class_predicate=fits)
    names = set(checkpoint.parameters(ours))
    backend.quicken(ours)
    assert set(checkpoint.parameters(ours)) == names
    ids = mx.random.randint(0, 61, (1, 30), key=mx.random.key(1))
    assert_close("at once", ours(ids), theirs(ids), 1e-4)
    caches = ours.make_cache()
    parts = [
        ours(ids[:, a:b], caches)
        for a, b in [(0, 20), (20, 23), *((i, i + 1) for i in range(23, 30))]
    ]
    assert_close("bit by bit", mx.concatenate(parts, axis=1), theirs(ids), 1e-4)
