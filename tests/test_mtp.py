"""The head for one further token against its naive twin."""

from functools import cache, partial
from itertools import pairwise

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from close import assert_close, relative
from hypothesis import given, settings
from hypothesis import strategies as st
from twins import LENGTHS, LIMIT, inputs, matrices, randomised

from mlxarch.blocks import mtp
from mlxarch.blocks.attention import Attention
from mlxarch.blocks.mtp import MTPHead
from mlxarch.blocks.rope import Rope
from mlxarch.naive import attention, rope
from mlxarch.naive import mtp as naive

DIM, HEADS, KV_HEADS, HEAD_DIM, WINDOW, EPS, BASE = 20, 4, 2, 6, 9, 1e-3, 3e4


class Block(nn.Module):
    """The plainest block there is: attention, added to the stream."""

    def __init__(self):
        super().__init__()
        self.mixer = Attention(
            DIM, HEADS, KV_HEADS, HEAD_DIM, rope=Rope(HEAD_DIM, BASE), window=WINDOW
        )

    def __call__(self, x, mask, cache):
        return x + self.mixer(x, mask, cache)


def head(seed=0, vocab=None):
    return randomised(MTPHead(DIM, Block(), norm_eps=EPS, vocab=vocab), seed)


def twin(made, hidden, embedded):
    weights, under = matrices(made), "block.mixer."
    mixer = {k.removeprefix(under): w for k, w in weights.items() if k.startswith(under)}
    attend = partial(
        attention.attention,
        weights=mixer,
        heads=HEADS,
        kv_heads=KV_HEADS,
        rotate=lambda vector, t: rope.rotate(vector, t, BASE),
        window=WINDOW,
    )
    rows = (np.array(t, dtype=np.float64) for t in (hidden, embedded))
    return [
        naive.mtp_head(state, token, weights, block=lambda x: x + attend(x), norm_eps=EPS)
        for state, token in zip(*rows, strict=True)
    ]


def states_and_tokens(length):
    """Of unlike sizes, as hidden states and embeddings are."""
    return 3 * inputs(length, DIM), 0.2 * inputs(length + 1, DIM)[:, 1:]


@cache
def longest():
    return twin(head(), *states_and_tokens(65))


@pytest.mark.parametrize("length", LENGTHS)
def test_the_head_is_its_twin(length):
    made, parts = head(seed=length), states_and_tokens(length)
    assert_close("head", made(*parts), twin(made, *parts), LIMIT)


@settings(max_examples=8)
@given(cuts=st.sets(st.integers(1, 64), max_size=6))
def test_any_split_is_the_twin(cuts):
    made, wanted = head(), longest()
    hidden, embedded = states_and_tokens(65)
    entry, pieces = made.make_cache(), []
    for start, stop in pairwise(sorted({0, *cuts, 65})):
        pieces.append(np.array(made(hidden[:, start:stop], embedded[:, start:stop], entry)))
    assert_close("in pieces", np.concatenate(pieces, axis=1), wanted, LIMIT)


@pytest.mark.parametrize("which", [0, 1], ids=["hidden", "embedded"])
def test_a_later_position_changes_nothing_before_it(which):
    made, parts, t = head(), list(states_and_tokens(33)), 20
    before = made(*parts)
    parts[which] = mx.where(mx.arange(33)[:, None] == t, -parts[which], parts[which])
    after = made(*parts)
    assert_close("before", after[:, :t], before[:, :t], 1e-6)
    assert relative(after[:, t], before[:, t]) > 1e-2


def test_an_output_head_of_its_own_is_there_where_it_is_asked_for():
    assert head().head is None
    assert head(vocab=33).head(inputs(1, DIM)).shape == (2, 1, 33)


def test_heads_are_counted_by_their_tensors():
    assert mtp.count([]) == mtp.count(["layers.0.mixer.q_proj.weight"]) == 0
    names = [f"mtp.{i}.{part}.weight" for i in range(3) for part in ("proj", "norm")]
    assert mtp.count([*names, "norm.weight"]) == 3
