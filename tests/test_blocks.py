"""Attention and SwiGLU against their naive twins."""

import numpy as np
import pytest
from close import assert_close
from twins import LENGTHS, LIMIT, by_row, in_pieces, inputs, matrices, randomised

from mlxarch.blocks.attention import Attention, nope
from mlxarch.blocks.mlp import SwiGLU
from mlxarch.blocks.rope import Rope
from mlxarch.naive import attention, mlp, rope

DIM, HEADS, KV_HEADS, HEAD_DIM, WINDOW, BASE = 20, 6, 2, 10, 9, 3e4
# A block's `rope`, and what the twin does in its place.
ROPES = {
    "halves": (Rope(HEAD_DIM, BASE), lambda x, t: rope.rotate(x, t, BASE)),
    "interleaved": (
        Rope(HEAD_DIM, BASE, interleaved=True),
        lambda x, t: rope.rotate(x, t, BASE, interleaved=True),
    ),
    "nope": (nope, lambda x, t: x),
}


@pytest.mark.parametrize("window", [None, WINDOW], ids=["full", "window"])
@pytest.mark.parametrize("rope_kind", ROPES)
@pytest.mark.parametrize("length", LENGTHS)
def test_attention_is_its_twin(length, rope_kind, window):
    rotary, rotate = ROPES[rope_kind]
    block = Attention(DIM, HEADS, KV_HEADS, HEAD_DIM, rope=rotary, window=window)
    randomised(block, seed=length)
    x, sizes = inputs(length, DIM), {"heads": HEADS, "kv_heads": KV_HEADS}
    twin = by_row(
        lambda row: attention.attention(
            row, matrices(block), rotate=rotate, window=window, **sizes
        ),
        x,
    )
    assert_close("whole", block(x, block.make_mask(x)), twin, LIMIT)
    cuts = {1, length // 3, length // 2, length - 1} - {0}
    assert_close("in pieces", in_pieces(block, x, cuts), twin, LIMIT)


@pytest.mark.parametrize("length", LENGTHS)
def test_swiglu_is_its_twin(length):
    block = randomised(SwiGLU(DIM, 33), seed=length)
    x = inputs(length, DIM)
    twin = by_row(lambda row: np.stack([mlp.swiglu(token, matrices(block)) for token in row]), x)
    assert_close("swiglu", block(x), twin, LIMIT)


def test_heads_that_cannot_be_shared_evenly_are_refused():
    with pytest.raises(ValueError, match="5 query heads cannot share 2"):
        Attention(DIM, 5, 2, HEAD_DIM)
